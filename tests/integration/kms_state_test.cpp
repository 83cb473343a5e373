// State of the display that another program has left: it must not change our pictures, and is put back.
#include "kms_support.hpp"

#include <dmaflow/kms.hpp>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <drm.h>
#include <drm_mode.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace dmaflow::test {
namespace {

std::uint64_t address(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

/// Another program that has the display, without any code of the library.
class OtherProgram {
 public:
  explicit OtherProgram(const std::string& card) : fd_(::open(card.c_str(), O_RDWR | O_CLOEXEC)) {
    for (const std::uint64_t capability :
         {std::uint64_t{DRM_CLIENT_CAP_UNIVERSAL_PLANES}, std::uint64_t{DRM_CLIENT_CAP_ATOMIC}}) {
      drm_set_client_cap wanted{.capability = capability, .value = 1};
      call(DRM_IOCTL_SET_CLIENT_CAP, &wanted, "DRM_IOCTL_SET_CLIENT_CAP");
    }
    drm_mode_card_res resources{};
    call(DRM_IOCTL_MODE_GETRESOURCES, &resources, "DRM_IOCTL_MODE_GETRESOURCES");
    std::vector<std::uint32_t> crtcs(resources.count_crtcs);
    resources = {};
    resources.crtc_id_ptr = address(crtcs.data());
    resources.count_crtcs = static_cast<std::uint32_t>(crtcs.size());
    call(DRM_IOCTL_MODE_GETRESOURCES, &resources, "DRM_IOCTL_MODE_GETRESOURCES");
    crtc_ = crtcs.at(0);
  }
  OtherProgram(const OtherProgram&) = delete;
  OtherProgram& operator=(const OtherProgram&) = delete;
  ~OtherProgram() { ::close(fd_); }

  struct Property {
    std::uint32_t id = 0;
    std::uint64_t value = 0;
  };
  [[nodiscard]] Property property(std::string_view name) const {
    drm_mode_obj_get_properties all{};
    all.obj_id = crtc_;
    all.obj_type = DRM_MODE_OBJECT_CRTC;
    call(DRM_IOCTL_MODE_OBJ_GETPROPERTIES, &all, "DRM_IOCTL_MODE_OBJ_GETPROPERTIES");
    std::vector<std::uint32_t> ids(all.count_props);
    std::vector<std::uint64_t> values(all.count_props);
    all.props_ptr = address(ids.data());
    all.prop_values_ptr = address(values.data());
    call(DRM_IOCTL_MODE_OBJ_GETPROPERTIES, &all, "DRM_IOCTL_MODE_OBJ_GETPROPERTIES");
    for (std::size_t i = 0; i < ids.size(); ++i) {
      drm_mode_get_property one{};
      one.prop_id = ids[i];
      call(DRM_IOCTL_MODE_GETPROPERTY, &one, "DRM_IOCTL_MODE_GETPROPERTY");
      if (name == one.name) return {.id = ids[i], .value = values[i]};
    }
    return {};
  }
  /// Sets a table that shows each colour as its opposite, gives the display away, and keeps running.
  void leave_inverted_colours() {
    std::vector<drm_color_lut> table(property("GAMMA_LUT_SIZE").value);
    ASSERT_GE(table.size(), 2U);
    for (std::size_t i = 0; i < table.size(); ++i) {
      const auto value = static_cast<std::uint16_t>(0xffff - 0xffff * i / (table.size() - 1));
      table[i] = {.red = value, .green = value, .blue = value, .reserved = 0};
    }
    drm_mode_create_blob blob{};
    blob.data = address(table.data());
    blob.length = static_cast<std::uint32_t>(table.size() * sizeof table[0]);
    call(DRM_IOCTL_MODE_CREATEPROPBLOB, &blob, "DRM_IOCTL_MODE_CREATEPROPBLOB");
    const std::uint32_t count = 1;
    const std::uint32_t id = property("GAMMA_LUT").id;
    const std::uint64_t value = blob.blob_id;
    drm_mode_atomic request{};
    request.flags = DRM_MODE_ATOMIC_ALLOW_MODESET;
    request.count_objs = 1;
    request.objs_ptr = address(&crtc_);
    request.count_props_ptr = address(&count);
    request.props_ptr = address(&id);
    request.prop_values_ptr = address(&value);
    call(DRM_IOCTL_MODE_ATOMIC, &request, "DRM_IOCTL_MODE_ATOMIC");
    call(DRM_IOCTL_DROP_MASTER, nullptr, "DRM_IOCTL_DROP_MASTER");
  }
  /// The bytes of the CRTC's GAMMA_LUT; empty if it has none.
  [[nodiscard]] std::string table() const {
    drm_mode_get_blob blob{};
    blob.blob_id = static_cast<std::uint32_t>(property("GAMMA_LUT").value);
    if (blob.blob_id == 0) return {};
    call(DRM_IOCTL_MODE_GETPROPBLOB, &blob, "DRM_IOCTL_MODE_GETPROPBLOB");
    std::string bytes(blob.length, '\0');
    blob.data = address(bytes.data());
    call(DRM_IOCTL_MODE_GETPROPBLOB, &blob, "DRM_IOCTL_MODE_GETPROPBLOB");
    return bytes;
  }

 private:
  void call(unsigned long request, void* argument, const char* name) const {
    EXPECT_EQ(::ioctl(fd_, request, argument), 0) << name << ": " << std::strerror(errno);
  }
  int fd_;
  std::uint32_t crtc_ = 0;
};

TEST(KmsState, AnotherProgramsColourTableChangesNoPictureAndIsPutBack) {
  OtherProgram other(card_path("vkms"));
  ASSERT_NO_FATAL_FAILURE(other.leave_inverted_colours());
  const std::string left = other.table();
  ASSERT_FALSE(left.empty());
  {
    auto device = must(kms::Device::open(card_path("vkms")));
    // In vkms of 6.12 the CRTC drives either a monitor or memory.
    kms::Output* const output = must(device->output({.connector = "Writeback-1", .mode = Size{1024, 768}}));
    auto screen = must(Screen::on(*output, {1024, 768}));
    const Buffer source = show_a_pattern(screen);
    EXPECT_TRUE(other.table().empty()) << "while ours is shown";
    const Buffer target =
        must(screen.plane->input_allocator()->allocate({.size = {1024, 768}, .format = formats::xrgb8888})).front();
    must(must(screen.output->capture(target)).wait(Screen::soon()));
    EXPECT_EQ(differing_bytes(source, target), 0U);
    must(screen.plane->stop());
    EXPECT_EQ(other.table(), left);
    device->remove(output);
  }
  EXPECT_EQ(other.table(), left) << "after the device was closed";
}

}  // namespace
}  // namespace dmaflow::test
