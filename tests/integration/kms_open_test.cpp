// Finding, opening and closing displays. Runs in the lab, on its virtio-gpu, bochs, vkms and vgem cards.
#include "kms_support.hpp"

#include <dmaflow/kms.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/v4l2.hpp>

#include <filesystem>
#include <fstream>

#include <grp.h>
#include <linux/dma-heap.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;

std::string detail_of(const Error& error) { return std::string(error.detail()); }

/// Makes each call of an operation fail in turn, until there are no more calls; each time nothing may be leaked.
void fail_each_call(const std::function<bool()>& operation) {
  for (std::size_t n = 1; n < 2000; ++n) {
    const LeakCheck leaks;
    const FailNth failure(n, ENOMEM);
    const bool worked = operation();
    if (!failure.fired()) {
      EXPECT_TRUE(worked) << "nothing was failed";
      return;
    }
    if (::testing::Test::HasFailure()) {
      FAIL() << "with call " << n << " failed";
    }
  }
  FAIL() << "it never ended";
}

TEST(KmsList, NamesEveryCardWithItsDriverAndConnectors) {
  const auto cards = kms::list();
  for (const std::string& driver : displays()) {
    const auto card = std::find_if(cards.begin(), cards.end(), [&](const kms::Card& c) { return c.driver == driver; });
    ASSERT_NE(card, cards.end()) << driver;
    EXPECT_FALSE(card->error) << card->error->message();
    ASSERT_EQ(card->connectors.size(), 1U) << driver << ": writeback connectors are no displays";
    EXPECT_EQ(card->connectors[0].connection, kms::Connection::connected);
    EXPECT_TRUE(std::filesystem::exists("/sys/class/drm/" + card->path.substr(9) + "-" + card->connectors[0].name));
    EXPECT_FALSE(card->connectors[0].modes.empty());
  }
  const auto vgem = std::find_if(cards.begin(), cards.end(), [](const kms::Card& c) { return c.driver == "vgem"; });
  ASSERT_NE(vgem, cards.end());
  EXPECT_TRUE(vgem->connectors.empty());
}

TEST(KmsList, LeavesNothingOpenAndNobodyMaster) {
  const LeakCheck leaks;
  (void)kms::list();
  for (const std::string& driver : displays()) EXPECT_TRUE(kms::Device::open(card_path(driver))) << driver;
}

TEST(KmsOpen, MissingCardListsWhatThereIs) {
  const auto device = kms::Device::open("/dev/dri/card77");
  ASSERT_TRUE(fails_with(device, ENOENT));
  EXPECT_NE(detail_of(device.error()).find("/dev/dri/card0"), std::string::npos) << device.error().message();
}

TEST(KmsOpen, DevicesOfOtherKindsAreRefusedEachWithItsReason) {
  const LeakCheck leaks;
  EXPECT_TRUE(fails_with(kms::Device::open("/dev/null"), ENOTTY));
  EXPECT_TRUE(fails_with(kms::Device::open("/proc/self/maps"), EACCES) ||
              fails_with(kms::Device::open("/proc/self/maps"), ENOTTY));
  EXPECT_TRUE(fails_with(kms::Device::open(card_path("vgem")), ENODEV));
  for (const auto& entry : std::filesystem::directory_iterator("/dev/dri")) {
    if (entry.path().filename().string().rfind("renderD", 0) != 0) continue;
    const auto device = kms::Device::open(entry.path());
    ASSERT_TRUE(fails_with(device, ENODEV));
    EXPECT_NE(detail_of(device.error()).find("/dev/dri/cardN"), std::string::npos);
  }
}

TEST(KmsOpen, DriversWithoutAtomicAreRefusedClearly) {
  const LeakCheck leaks;
  const std::string path = card_path("vkms");
  const FailNth failure(2, EOPNOTSUPP, "ioctl", DRM_IOCTL_SET_CLIENT_CAP);
  const auto device = kms::Device::open(path);
  ASSERT_TRUE(fails_with(device, EOPNOTSUPP));
  EXPECT_NE(detail_of(device.error()).find("atomic"), std::string::npos);
}

TEST(KmsOpen, AnotherMasterIsNamedAsTheReason) {
  const std::string path = card_path("virtio_gpu");
  const Fd other = Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(other);
  ASSERT_EQ(ioctl(other.get(), DRM_IOCTL_SET_MASTER, 0), 0);
  const LeakCheck leaks;
  const auto device = kms::Device::open(path);
  ASSERT_TRUE(fails_with(device, EBUSY));
  EXPECT_NE(detail_of(device.error()).find("another program"), std::string::npos);
}

TEST(KmsOpen, NoPermissionNamesTheGroupThatHelps) {
  const std::string path = card_path("virtio_gpu");
  struct stat node{};
  ASSERT_EQ(::stat(path.c_str(), &node), 0);
  const std::string wanted = getgrgid(node.st_gid)->gr_name;
  const pid_t child = fork();
  if (child == 0) {
    if (setgroups(0, nullptr) != 0 || setgid(65534) != 0 || setuid(65534) != 0) _exit(2);
    const auto device = kms::Device::open(path);
    const bool right = !device && device.error().code() == EACCES &&
                       device.error().detail().find("group " + wanted) != std::string_view::npos;
    _exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(KmsOpen, WithoutAPathItFindsADisplay) {
  const auto device = must(kms::Device::open());
  EXPECT_TRUE(device->output());
}

TEST(KmsOpen, EveryFailingCallLeavesNothingBehind) {
  const std::string path = card_path("vkms");
  fail_each_call([&] {
    auto device = kms::Device::open(path);
    return device && (*device)->output();
  });
}

TEST(KmsOpen, UnknownConnectorListsThoseThereAre) {
  const auto device = must(kms::Device::open(card_path("vkms")));
  const auto output = device->output({.connector = "HDMI-A-9"});
  ASSERT_TRUE(fails_with(output, ENODEV));
  EXPECT_NE(detail_of(output.error()).find("Virtual-"), std::string::npos);
}

TEST(KmsOpen, AConnectorHasOneOutput) {
  const auto device = must(kms::Device::open(card_path("vkms")));
  kms::Output* const first = must(device->output());
  const std::string connector(first->connector());
  EXPECT_TRUE(fails_with(device->output({.connector = connector}), EBUSY));
  device->remove(first);
  EXPECT_TRUE(device->output({.connector = connector}));
}

TEST(KmsAdopt, AnErrorLeavesTheFileWithItsOwner) {
  Fd null = Fd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_TRUE(fails_with(kms::Device::adopt(null), ENOTTY));
  EXPECT_TRUE(null);
  EXPECT_GE(::fcntl(null.get(), F_GETFD), 0);
}

TEST(KmsAdopt, DetachGivesMastershipBackAndLeavesTheOwnersFileWorking) {
  const LeakCheck leaks;
  const std::string path = card_path("vkms");
  const Fd owner = Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(ioctl(owner.get(), DRM_IOCTL_DROP_MASTER, 0), 0);
  Fd dup = must(Fd::dup_of(owner.get()));
  const auto device = must(kms::Device::adopt(dup));
  EXPECT_FALSE(dup);
  EXPECT_TRUE(device->output());
  device->detach();
  EXPECT_TRUE(fails_with(device->output(), ENODEV));
  EXPECT_TRUE(kms::Device::open(path)) << "mastership was not given back";
  drm_get_cap cap{.capability = DRM_CAP_PRIME, .value = 0};
  EXPECT_EQ(ioctl(owner.get(), DRM_IOCTL_GET_CAP, &cap), 0);
}

TEST(KmsAdopt, AMasterStaysMasterAfterwards) {
  const std::string path = card_path("vkms");
  const Fd owner = Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(ioctl(owner.get(), DRM_IOCTL_SET_MASTER, 0), 0);
  Fd dup = must(Fd::dup_of(owner.get()));
  {
    const auto device = must(kms::Device::adopt(dup));
  }
  EXPECT_TRUE(fails_with(kms::Device::open(path), EBUSY)) << "the owner's mastership was dropped";
}

TEST(KmsAdopt, AnEndedDeviceAnswersWithErrors) {
  auto screen = must(Screen::open("vkms", {640, 480}));
  screen.device->detach();
  EXPECT_TRUE(fails_with(screen.device->dispatch(POLLIN), ENODEV));
  EXPECT_TRUE(fails_with(screen.device->resume(), ENODEV));
  EXPECT_TRUE(fails_with(screen.device->hotplug(), ENODEV));
}

/// Unplugs or plugs in a connector through sysfs, and makes the kernel report a change as drivers do.
void plug(const std::string& path, const std::string& connector, const char* state) {
  const std::string card = "/sys/class/drm/" + path.substr(9);
  std::ofstream(card + "-" + connector + "/status") << state << std::flush;
  std::ofstream(card + "/uevent") << "change" << std::flush;
}

TEST(KmsHotplug, UnpluggingAndPluggingInIsReported) {
  for (const std::string& driver : displays()) {
    auto screen = must(Screen::open(driver, {1024, 768}));
    kms::Hotplug* const hotplug = must(screen.device->hotplug());
    const std::string path = card_path(driver);
    const std::string connector(screen.output->connector());
    const auto wait_for_change = [&] {
      while (!screen.plane->take_changed()) {
        const int ready = sys::wait(hotplug->poll_fd(), hotplug->poll_events(), Screen::soon());
        if (ready <= 0) return false;
        if (!hotplug->dispatch(static_cast<short>(ready))) return false;
      }
      return true;
    };
    EXPECT_TRUE(screen.output->is_connected());
    plug(path, connector, "off");
    EXPECT_TRUE(wait_for_change()) << driver;
    EXPECT_FALSE(screen.output->is_connected());
    EXPECT_FALSE(screen.plane->take_changed()) << "reported twice";
    EXPECT_TRUE(screen.show()) << "frames keep flowing while nobody looks";
    plug(path, connector, "detect");
    EXPECT_TRUE(wait_for_change()) << driver;
    EXPECT_TRUE(screen.output->is_connected());
  }
}

TEST(KmsHotplug, ARunningPipelineGoesOnUnpluggedAndPluggedInAgain) {
  for (const std::string& driver : {std::string("virtio_gpu"), std::string("vkms")}) {
    const LeakCheck leaks;
    const auto camera = must(v4l2::Camera::open("/dev/video0"));
    const auto card = must(kms::Device::open(card_path(driver)));
    kms::Output* const output = must(card->output());
    kms::Plane* const screen = must(output->plane());
    Pipeline pipeline;
    must(pipeline.connect(*camera, *screen));
    pipeline.watch(*must(card->hotplug()));
    const auto plans = pipeline.prepare({.size = Size{640, 480}});
    ASSERT_TRUE(plans) << plans.error().message();
    must(pipeline.start());
    const StreamStats& stats = pipeline.stats().streams.front();
    const auto run_until = [&](std::uint64_t renegotiations) {
      const auto deadline = Screen::soon();
      while (stats.renegotiations < renegotiations && deadline.remaining().count() > 0) must(pipeline.step(deadline));
      EXPECT_EQ(stats.renegotiations, renegotiations) << driver;
      const std::uint64_t before = stats.branches[0].presented;
      while (stats.branches[0].presented < before + 30 && deadline.remaining().count() > 0) {
        must(pipeline.step(deadline));
      }
      EXPECT_GE(stats.branches[0].presented, before + 30) << driver;
    };
    run_until(0);
    plug(card_path(driver), std::string(output->connector()), "off");
    run_until(1);
    EXPECT_FALSE(output->is_connected());
    plug(card_path(driver), std::string(output->connector()), "detect");
    run_until(2);
    EXPECT_TRUE(output->is_connected());
    must(pipeline.stop(Screen::soon()));
  }
}

TEST(KmsHotplug, ReportsOfOtherDevicesChangeNothing) {
  auto screen = must(Screen::open("virtio_gpu", {1280, 720}));
  kms::Hotplug* const hotplug = must(screen.device->hotplug());
  std::ofstream("/sys/class/drm/" + card_path("vkms").substr(9) + "/uevent") << "change" << std::flush;
  ASSERT_GT(sys::wait(hotplug->poll_fd(), POLLIN, Screen::soon()), 0);
  const CountCalls calls("read");
  EXPECT_TRUE(hotplug->dispatch(POLLIN));
  EXPECT_GE(calls.calls(), 2U) << "read until nothing is left";
  EXPECT_FALSE(screen.plane->take_changed());
}

TEST(KmsHotplug, EveryFailingCallLeavesNothingBehind) {
  const auto device = must(kms::Device::open(card_path("vkms")));
  for (const char* call : {"socket", "bind"}) {
    const LeakCheck leaks;
    const FailNth failure(1, EACCES, call);
    EXPECT_TRUE(fails_with(device->hotplug(), EACCES)) << call;
  }
}

}  // namespace
