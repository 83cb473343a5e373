// Moving a monitor from one CRTC to another: a card with two CRTCs and one connector, which vkms creates on request.
// Kernel interface: Documentation/gpu/vkms.rst, configfs; only newer kernels have it.
#include "kms_support.hpp"

#include <dmaflow/kms.hpp>

#include <filesystem>
#include <fstream>
#include <set>

#include <sys/mount.h>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;
namespace fs = std::filesystem;

constexpr const char* configfs = "/sys/kernel/config";

std::set<std::string> card_paths() {
  std::set<std::string> paths;
  for (const kms::Card& card : kms::list()) paths.insert(card.path);
  return paths;
}

bool can_make_cards() {
  if (!fs::exists(configfs)) (void)std::system("modprobe configfs");  // NOLINT(concurrency-mt-unsafe)
  if (!fs::exists(std::string(configfs) + "/vkms")) ::mount("none", configfs, "configfs", 0, nullptr);
  return fs::exists(std::string(configfs) + "/vkms");
}

/// Two CRTCs with a primary plane each, and one connector that either can drive.
class TwoCrtcs {
 public:
  TwoCrtcs() {
    const auto before = card_paths();
    for (const char* part : {"", "crtcs/c0", "crtcs/c1", "planes/p0", "planes/p1", "encoders/e", "connectors/m"}) {
      fs::create_directory(root_ / part);
    }
    for (const char* number : {"0", "1"}) {
      write(root_ / "planes" / (std::string("p") + number) / "type", "1");  // primary
      link(std::string("planes/p") + number + "/possible_crtcs", std::string("crtcs/c") + number);
      link("encoders/e/possible_crtcs", std::string("crtcs/c") + number);
    }
    link("connectors/m/possible_encoders", "encoders/e");
    write(root_ / "enabled", "1");
    for (const std::string& card : card_paths()) {
      if (!before.contains(card)) path_ = card;
    }
    EXPECT_FALSE(path_.empty()) << "vkms made no card";
  }
  TwoCrtcs(const TwoCrtcs&) = delete;
  TwoCrtcs& operator=(const TwoCrtcs&) = delete;
  ~TwoCrtcs() {
    write(root_ / "enabled", "0");
    for (const fs::path& one : links_) fs::remove(one);
    for (const char* part : {"connectors/m", "encoders/e", "planes/p1", "planes/p0", "crtcs/c1", "crtcs/c0", ""}) {
      std::error_code ignored;
      ::rmdir((root_ / part).c_str());
    }
    EXPECT_FALSE(fs::exists(root_));
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  static void write(const fs::path& file, const char* text) { std::ofstream(file) << text; }
  void link(const std::string& from, const std::string& to) {
    links_.push_back(root_ / from / fs::path(to).filename());
    fs::create_directory_symlink(root_ / to, links_.back());
  }

  fs::path root_ = std::string(configfs) + "/vkms/dmaflow-" + std::to_string(::getpid());
  std::vector<fs::path> links_;
  std::string path_;
};

std::vector<std::uint32_t> crtcs(const kms::Device& device) {
  drm_mode_card_res resources{};
  std::array<std::uint32_t, 8> ids{};
  resources.crtc_id_ptr = reinterpret_cast<std::uintptr_t>(ids.data());
  resources.count_crtcs = ids.size();
  EXPECT_EQ(::ioctl(device.fd(), DRM_IOCTL_MODE_GETRESOURCES, &resources), 0);
  return {ids.begin(), ids.begin() + resources.count_crtcs};
}

TEST(KmsCrtc, AMonitorIsTakenFromARunningCrtcAndGivenBack) {
  const bool can = can_make_cards();
  observe("vkms makes cards by configfs", can, "docs/kms.md");
  if (!can) GTEST_SKIP() << "this kernel's vkms has no configfs, and no other card here has two CRTCs";
  const TwoCrtcs card;
  const auto first = must(kms::Device::open(card.path()));
  auto before = must(Screen::on(*must(first->output()), {800, 600}));  // the previous user of the monitor
  must(before.show());
  const std::uint32_t theirs = before.output->crtc_id();
  const Shown was = read_crtc(first->fd(), theirs);
  ASSERT_EQ(was.width, 800U);
  must(first->pause());

  const auto second = must(kms::Device::open(card.path()));
  const auto all = crtcs(*second);
  ASSERT_EQ(all.size(), 2U);
  const std::uint32_t ours = all[0] == theirs ? all[1] : all[0];
  {
    auto screen = must(Screen::on(*must(second->output({.crtc_id = ours})), {1024, 768}));
    EXPECT_EQ(screen.output->crtc_id(), ours);
    {
      Recorder calls;
      must(screen.show());
      for (const Recorder::Entry& commit : calls.entries()) {
        if (commit.request != DRM_IOCTL_MODE_ATOMIC || (commit.value & DRM_MODE_PAGE_FLIP_EVENT) == 0) continue;
        EXPECT_EQ(std::ranges::find(commit.objects, theirs), commit.objects.end())
            << "a commit that asks for an event would get one of that CRTC too";
      }
    }
    EXPECT_EQ(read_crtc(second->fd(), theirs), Shown{}) << "off";
    EXPECT_EQ(read_crtc(second->fd(), ours).width, 1024U);
    for (int i = 0; i < 20; ++i) must(screen.show());
    std::array<Presentation, 32> reports;
    EXPECT_EQ(screen.plane->take_presented(reports), 21U)
        << "one flip event for each commit, and none of the other CRTC";
    EXPECT_LE(screen.holds->lent(), 1U);
    must(screen.plane->stop());
    EXPECT_EQ(screen.holds->lent(), 0U);
  }
  EXPECT_EQ(read_crtc(second->fd(), ours), Shown{});
  EXPECT_EQ(read_crtc(second->fd(), theirs), was) << "as it was found";
}

}  // namespace
