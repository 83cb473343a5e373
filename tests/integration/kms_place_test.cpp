// Finding the mode, the plane and the position: what each driver can do, and the refusals of what it cannot.
#include "kms_support.hpp"

#include <dmaflow/kms.hpp>

namespace {

using namespace dmaflow;
using namespace dmaflow::test;

struct Opened {
  std::unique_ptr<kms::Device> device;
  kms::Output* output;
  kms::Plane* plane;
};

Opened open_plane(const std::string& driver, const kms::PlaneOptions& options = {},
                  const kms::OutputOptions& out = {}) {
  auto device = must(kms::Device::open(card_path(driver)));
  kms::Output* const output = must(device->output(out));
  kms::Plane* const plane = must(output->plane(options));
  return {std::move(device), output, plane};
}

bool has_mode(const kms::Output& output, Size size) {
  return std::ranges::find(output.modes(), size, &kms::Mode::size) != output.modes().end();
}

Rect in_the_middle(Size screen, Size frame) {
  return {static_cast<std::int32_t>((screen.width - frame.width) / 2),
          static_cast<std::int32_t>((screen.height - frame.height) / 2), frame.width, frame.height};
}

bool says(const Result<void>& result, std::string_view text) {
  return !result && result.error().detail().find(text) != std::string_view::npos;
}

TEST(KmsPlace, ImpossibleSizesAreRefusedWithTheRange) {
  const auto screen = open_plane("vkms");
  for (const Size size : {Size{0, 720}, Size{1280, 0}, Size{16385, 720}, Size{1280, 100000}}) {
    const auto result = screen.plane->check_input(stream_of(size));
    EXPECT_TRUE(fails_with(result, EINVAL)) << size.width << "x" << size.height;
    EXPECT_TRUE(says(result, "16384x16384"));
    EXPECT_TRUE(fails_with(screen.plane->set_input(stream_of(size)), EINVAL));
  }
}

TEST(KmsPlace, OddSizesOfSubsampledFormatsAreRefused) {
  const auto screen = open_plane("vkms");
  EXPECT_TRUE(says(screen.plane->check_input(stream_of({639, 480}, formats::nv12)), "multiple of 2"));
  EXPECT_TRUE(says(screen.plane->check_input(stream_of({640, 479}, formats::nv12)), "height"));
  EXPECT_TRUE(says(screen.plane->check_input(stream_of({639, 480}, formats::yuyv)), "multiple of 2"));
}

TEST(KmsPlace, FormatsTheDisplayLacksAreRefusedWithThoseItHas) {
  for (const std::string& driver : displays()) {
    const auto screen = open_plane(driver);
    int refused = 0;  // the formats that a driver lacks change over time; no driver has all of these
    for (const PixelFormat format : {formats::uyvy, formats::yuyv, formats::nv16, formats::bgr888, formats::r8}) {
      const auto result = screen.plane->check_input(stream_of({640, 480}, format));
      if (result) continue;
      ++refused;
      EXPECT_TRUE(fails_with(result, EINVAL)) << driver;
      EXPECT_TRUE(says(result, "XRGB8888")) << driver << ": " << result.error().message();
    }
    EXPECT_GT(refused, 0) << driver;
    StreamConfig compressed = stream_of({640, 480});
    compressed.layout = must(Layout::opaque(formats::mjpeg, {640, 480}, 100000));
    EXPECT_TRUE(says(screen.plane->check_input(compressed), "compressed"));
  }
}

TEST(KmsPlace, VendorModifiersNeverPassForLinear) {
  for (const std::string& driver : displays()) {
    const auto screen = open_plane(driver);
    StreamConfig tiled = stream_of({1024, 768});
    tiled.layout.modifier = Modifier::from_value(0x0100000000000001);  // I915_FORMAT_MOD_X_TILED
    EXPECT_TRUE(fails_with(screen.plane->check_input(tiled), EINVAL)) << driver;
    EXPECT_TRUE(says(screen.plane->check_input(tiled), "0x0100000000000001")) << driver;
  }
}

TEST(KmsPlace, AModeOfTheFramesSizeIsPreferred) {
  for (const std::string& driver : displays()) {
    int tried = 0;
    for (const Size size : {Size{640, 480}, Size{800, 600}, Size{1024, 768}, Size{1280, 720}, Size{1920, 1080}}) {
      const auto screen = open_plane(driver);
      if (!has_mode(*screen.output, size)) continue;
      ++tried;
      const auto done = screen.plane->set_input(stream_of(size));
      ASSERT_TRUE(done) << driver << ": " << done.error().message();
      EXPECT_EQ(screen.output->mode()->size, size);
      EXPECT_EQ(screen.plane->position(), (Rect{0, 0, size.width, size.height}));
      for (const kms::Mode& mode : screen.output->modes()) {
        if (mode.size == size && mode.is_preferred) {
          EXPECT_TRUE(screen.output->mode()->is_preferred);
        }
        if (mode.size == size && !screen.output->mode()->is_preferred) {
          EXPECT_LE(mode.refresh_mhz, screen.output->mode()->refresh_mhz);
        }
      }
    }
    EXPECT_GT(tried, 1) << driver;
  }
}

TEST(KmsPlace, ModesAreChosenAsTold) {
  // If a size has several rates, the nearest one is chosen.
  std::vector<kms::Mode> modes;
  for (const kms::Mode& mode : open_plane("vkms").output->modes()) {
    if (mode.size == Size{800, 600}) modes.push_back(mode);
  }
  observe("rates of 800x600 on vkms", std::to_string(modes.size()));
  if (modes.size() < 2) GTEST_SKIP() << "vkms lists no size with two rates";
  for (const kms::Mode& mode : modes) {
    const auto screen = open_plane(
        "vkms", {}, {.connector = {}, .mode = mode.size, .refresh_mhz = mode.refresh_mhz - 20, .crtc_id = 0});
    ASSERT_TRUE(screen.plane->set_input(stream_of({640, 480})));
    EXPECT_EQ(screen.output->mode()->describe(), mode.describe());
    EXPECT_EQ(screen.plane->position(), (Rect{80, 60, 640, 480}));
  }
  const auto other =
      open_plane("bochs-drm", {}, {.connector = {}, .mode = Size{801, 600}, .refresh_mhz = 0, .crtc_id = 0});
  const auto refused = other.plane->set_input(stream_of({640, 480}));
  EXPECT_TRUE(fails_with(refused, EINVAL));
  EXPECT_TRUE(says(refused, other.output->modes().front().describe())) << "lists the modes";
}

TEST(KmsPlace, WithoutAModeOfItsSizeAFrameStandsInTheMiddleWhereTheDriverCanDoThat) {
  const auto screen = open_plane("vkms");
  ASSERT_TRUE(screen.plane->set_input(stream_of({500, 300})));
  const auto preferred = std::ranges::find(screen.output->modes(), true, &kms::Mode::is_preferred);
  const Size size = screen.output->mode()->size;
  if (preferred != screen.output->modes().end()) {
    EXPECT_EQ(size, preferred->size);
  }
  EXPECT_EQ(screen.plane->position(), in_the_middle(size, {500, 300}));
}

TEST(KmsPlace, APlaneThatMustCoverTheScreenIsRefusedWithTheModesThereAre) {
  for (const std::string& driver : displays()) {
    const auto screen = open_plane(driver);
    const auto result = screen.plane->set_input(stream_of({500, 300}));
    observe(driver + " shows a frame that covers a part of the screen", result.has_value(), "docs/kms.md");
    if (result) {
      EXPECT_EQ(screen.plane->position(), in_the_middle(screen.output->mode()->size, {500, 300})) << driver;
      continue;
    }
    EXPECT_TRUE(says(result, "500x300")) << driver;
    EXPECT_TRUE(says(result, screen.output->modes().front().describe())) << driver;
    EXPECT_EQ(screen.plane->plane_id(), 0U) << "a refused configuration leaves nothing set";
  }
}

TEST(KmsPlace, ScalingIsRefusedWhereTheDriverHasNone) {
  for (const std::string& driver : displays()) {
    const auto result =
        open_plane(driver, {.position = Rect{0, 0, 512, 384}}).plane->check_input(stream_of({1024, 768}));
    observe(driver + " scales", result.has_value(), "docs/kms.md");
    if (result) continue;
    EXPECT_TRUE(says(result, "scaled to 512x384")) << driver << ": " << result.error().message();
    const auto larger = open_plane(driver).plane->check_input(stream_of({5000, 4000}));
    ASSERT_FALSE(larger) << driver << ": a frame larger than its modes, unscaled";
    observe(driver + " refuses to scale a frame down with", outcome(larger.error()), "docs/kms.md");
    EXPECT_TRUE(says(larger, "5000x4000")) << driver << ": " << larger.error().message();
  }
}

TEST(KmsPlace, RotationIsDoneOrRefused) {
  const kms::PlaneOptions turned{.rotation = kms::Rotation::by_90};
  for (const std::string& driver : displays()) {
    const auto screen = open_plane(driver, turned);
    const auto result = screen.plane->set_input(stream_of({600, 800}));
    observe(driver + " rotates by 90 degrees", result.has_value(), "docs/kms.md");
    if (result) {
      EXPECT_EQ(screen.output->mode()->size, (Size{800, 600})) << "the mode is that of the turned frame";
      EXPECT_EQ(screen.plane->position(), (Rect{0, 0, 800, 600}));
    } else {
      EXPECT_TRUE(fails_with(result, EINVAL));
      EXPECT_TRUE(says(result, "cannot rotate")) << driver;
    }
  }
}

TEST(KmsPlace, OrderIsRefusedWhereItIsFixed) {
  for (const std::string& driver : displays()) {
    const auto result = open_plane(driver, {.zpos = 3}).plane->set_input(stream_of({1024, 768}));
    observe(driver + " orders its planes as told", result.has_value(), "docs/kms.md");
    if (result) continue;
    EXPECT_TRUE(fails_with(result, EINVAL)) << driver;
    EXPECT_TRUE(says(result, "order")) << driver;
  }
}

TEST(KmsPlace, ASourceOutsideTheFrameIsRefused) {
  const auto result = open_plane("vkms", {.source = Rect{100, 0, 640, 480}}).plane->set_input(stream_of({640, 480}));
  EXPECT_TRUE(fails_with(result, EINVAL));
  EXPECT_TRUE(says(result, "source"));
}

TEST(KmsPlace, OverlaysAreThereOnlyWhereTheDriverHasThem) {
  for (const std::string& driver : displays()) {
    const auto screen = open_plane(driver, {.kind = kms::PlaneKind::overlay});
    const auto result = screen.plane->set_input(stream_of({1024, 768}));
    observe(driver + " has overlay planes", result.has_value(), "docs/kms.md");
    if (!result) {
      EXPECT_TRUE(fails_with(result, EBUSY)) << driver;
    }
  }
}

TEST(KmsPlace, CheckingChangesNothing) {
  for (const std::string& driver : displays()) {
    const auto screen = open_plane(driver);
    const LeakCheck leaks;
    Recorder calls;
    EXPECT_TRUE(screen.plane->check_input(stream_of({1024, 768})));
    (void)screen.plane->check_input(stream_of({500, 300}));
    EXPECT_GT(calls.count(DRM_IOCTL_MODE_ATOMIC), 0U) << "the driver is really asked";
    for (const auto& call : calls.entries()) {
      if (call.request == DRM_IOCTL_MODE_ATOMIC) {
        EXPECT_TRUE((call.value & DRM_MODE_ATOMIC_TEST_ONLY) != 0);
      }
    }
    EXPECT_EQ(calls.count(DRM_IOCTL_MODE_CREATE_DUMB), calls.count(DRM_IOCTL_GEM_CLOSE));
    EXPECT_EQ(calls.count(DRM_IOCTL_MODE_ADDFB2), calls.count_framebuffers_ended());
    EXPECT_EQ(calls.count(DRM_IOCTL_MODE_CREATEPROPBLOB), calls.count(DRM_IOCTL_MODE_DESTROYPROPBLOB));
    EXPECT_EQ(screen.plane->plane_id(), 0U);
  }
}

TEST(KmsPlace, EveryFailingCallOfConfigureLeavesNothingBehind) {
  const auto screen = open_plane("vkms");
  for (std::size_t n = 1;; ++n) {
    ASSERT_LT(n, 1000U);
    const LeakCheck leaks;
    Recorder calls;
    std::size_t made = 0;
    calls.fail = [&](const Recorder::Entry& entry) {
      const bool is_end = entry.request == DRM_IOCTL_GEM_CLOSE || Recorder::ends_framebuffer(entry) ||
                          entry.request == DRM_IOCTL_MODE_DESTROYPROPBLOB;
      return !is_end && ++made == n ? ENOMEM : 0;
    };
    const bool worked = screen.plane->set_input(stream_of({1024, 768})).has_value();
    const bool is_failed_once = made >= n;
    if (!is_failed_once) {
      EXPECT_TRUE(worked);
      break;
    }
    std::size_t failed_blobs = 0, failed_frames = 0, failed_dumb = 0, at = 0;
    for (const auto& call : calls.entries()) {
      const bool is_end = call.request == DRM_IOCTL_GEM_CLOSE || Recorder::ends_framebuffer(call) ||
                          call.request == DRM_IOCTL_MODE_DESTROYPROPBLOB;
      if (is_end || ++at != n) continue;
      failed_blobs += call.request == DRM_IOCTL_MODE_CREATEPROPBLOB;
      failed_frames += call.request == DRM_IOCTL_MODE_ADDFB2;
      failed_dumb += call.request == DRM_IOCTL_MODE_CREATE_DUMB;
    }
    EXPECT_EQ(calls.count(DRM_IOCTL_MODE_CREATE_DUMB) - failed_dumb, calls.count(DRM_IOCTL_GEM_CLOSE)) << n;
    EXPECT_EQ(calls.count(DRM_IOCTL_MODE_ADDFB2) - failed_frames, calls.count_framebuffers_ended()) << n;
    (void)failed_blobs;
  }
}

}  // namespace
