// v4l2::Camera and v4l2::Output when another program changes the device; here, a second open file of the same vivid.
#include "v4l2_support.hpp"

#include <atomic>
#include <chrono>
#include <thread>

#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

using v4l2::Camera;
using v4l2::Output;

using namespace std::chrono_literals;

constexpr Size hd{1280, 720};

/// Another program: it knows the device by its path only.
class Other {
 public:
  Other(const std::string& path, Kind kind, bool multiplanar)
      : fd_(Fd::adopt(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK))), multiplanar_(multiplanar) {
    if (kind == Kind::capture) type_ = multiplanar ? V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE : V4L2_BUF_TYPE_VIDEO_CAPTURE;
    if (kind == Kind::output) type_ = multiplanar ? V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE : V4L2_BUF_TYPE_VIDEO_OUTPUT;
  }

  /// 0, or errno.
  int set(Size size, std::uint32_t code) const {
    v4l2_format format{};
    format.type = type_;
    if (multiplanar_) {
      format.fmt.pix_mp.width = size.width;
      format.fmt.pix_mp.height = size.height;
      format.fmt.pix_mp.pixelformat = code;
      format.fmt.pix_mp.num_planes = 1;
    } else {
      format.fmt.pix.width = size.width;
      format.fmt.pix.height = size.height;
      format.fmt.pix.pixelformat = code;
    }
    return ::ioctl(fd_.get(), VIDIOC_S_FMT, &format) == 0 ? 0 : errno;
  }
  [[nodiscard]] std::pair<Size, std::uint32_t> format() const {
    v4l2_format format{};
    format.type = type_;
    EXPECT_EQ(::ioctl(fd_.get(), VIDIOC_G_FMT, &format), 0);
    const auto of = [](const auto& pix) { return std::pair(Size{pix.width, pix.height}, pix.pixelformat); };
    return multiplanar_ ? of(format.fmt.pix_mp) : of(format.fmt.pix);
  }
  /// Requests buffers, which keeps everybody else from the queue. 0, or errno.
  int request(std::uint32_t count) const {
    v4l2_requestbuffers request{};
    request.type = type_;
    request.memory = V4L2_MEMORY_MMAP;
    request.count = count;
    return ::ioctl(fd_.get(), VIDIOC_REQBUFS, &request) == 0 ? 0 : errno;
  }
  int select(std::uint32_t target, const Rect& rect) const {
    v4l2_selection selection{};
    selection.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    selection.target = target;
    selection.r = {.left = rect.x, .top = rect.y, .width = rect.width, .height = rect.height};
    return ::ioctl(fd_.get(), VIDIOC_S_SELECTION, &selection) == 0 ? 0 : errno;
  }
  [[nodiscard]] Rect composed() const {
    v4l2_selection selection{};
    selection.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    selection.target = V4L2_SEL_TGT_COMPOSE;
    EXPECT_EQ(::ioctl(fd_.get(), VIDIOC_G_SELECTION, &selection), 0);
    const v4l2_rect& r = selection.r;
    return {.x = r.left, .y = r.top, .width = r.width, .height = r.height};
  }

 private:
  Fd fd_;
  bool multiplanar_;
  std::uint32_t type_ = 0;
};

class V4l2Others : public ::testing::TestWithParam<bool> {
 protected:
  [[nodiscard]] static bool multiplanar() { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Api, V4l2Others, ::testing::Values(false, true),
                         [](const auto& test) { return test.param ? "multiplanar" : "singleplanar"; });

/// Checks that the device and its frames are as the camera reports.
void expect_as_agreed(Camera& camera, const Other& other) {
  const Layout& layout = camera.output().layout;
  EXPECT_EQ(other.format(), std::pair(layout.size, *to_v4l2(layout.format, layout.modifier)));
  const auto frames = capture(camera, 3);
  ASSERT_EQ(frames.size(), 3U);
  for (const FrameInfo& frame : frames) {
    EXPECT_EQ(frame.bytes_used[0], camera.output().constraints.min_object_size[0]);
    EXPECT_EQ(frame.visible, (Rect{0, 0, layout.size.width, layout.size.height}));
  }
}

TEST_P(V4l2Others, AFormatChangedBeforeTheStartIsSetAgain) {
  const LeakCheck leaks;
  const std::string path = vivid(Kind::capture, multiplanar());
  auto camera = must(Camera::open(path));
  const Other other(path, Kind::capture, multiplanar());
  set_input(*camera, hd, formats::xrgb8888);
  const auto buffers = heap_buffers(camera->output(), 4);
  must(camera->try_output(buffers[0]));
  observe(std::string("a second open file of vivid changes the format of a camera that is not started, ") +
              (multiplanar() ? "multi-planar" : "single-planar"),
          other.set({640, 360}, V4L2_PIX_FMT_YUYV) == 0, "docs/v4l2.md");
  for (int run = 0; run < 2; ++run) {  // at every start
    (void)other.set({640, 360}, V4L2_PIX_FMT_YUYV);
    must(camera->start(buffers), "start");
    expect_as_agreed(*camera, other);
    must(camera->stop());
  }
  (void)other.set({640, 360}, V4L2_PIX_FMT_YUYV);
  must(camera->try_output(buffers[0]), "where a buffer is tried");
  (void)other.set({640, 360}, V4L2_PIX_FMT_YUYV);
  const auto own = own_buffers(*camera, 4);
  EXPECT_GE(own[0].size(0), camera->output().constraints.min_object_size[0]) << "made for the stream agreed on";
  (void)other.set({640, 360}, V4L2_PIX_FMT_YUYV);  // refused: its own buffers keep the format
  must(camera->start(own), "start with its own");
  expect_as_agreed(*camera, other);
}

TEST_P(V4l2Others, WhoHasTheQueueKeepsItAndItsFormat) {
  const LeakCheck leaks;
  const std::string path = vivid(Kind::capture, multiplanar());
  auto camera = must(Camera::open(path));
  set_input(*camera, hd, formats::xrgb8888);
  const auto buffers = heap_buffers(camera->output(), 4);
  {
    const Other other(path, Kind::capture, multiplanar());
    if (other.set({640, 360}, V4L2_PIX_FMT_YUYV) != 0 || other.request(3) != 0) GTEST_SKIP() << "vivid refuses that";
    EXPECT_TRUE(fails_with(camera->start(buffers), EBUSY));
    EXPECT_TRUE(fails_with(camera->try_output(buffers[0]), EBUSY));
    EXPECT_EQ(other.format().first, (Size{640, 360}));
    EXPECT_EQ(camera->holds(), nullptr);
  }
  must(camera->start(buffers), "once the other one has gone");
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

/// A program that changes the format continuously while the camera starts: each start has what was agreed, or is
/// refused.
TEST_P(V4l2Others, EveryStartHasWhatWasAgreedOrIsRefused) {
  const LeakCheck leaks;
  const std::string path = vivid(Kind::capture, multiplanar());
  auto camera = must(Camera::open(path));
  set_input(*camera, hd, formats::xrgb8888);
  const auto buffers = heap_buffers(camera->output(), 4);
  const Other other(path, Kind::capture, multiplanar());
  std::atomic<bool> go_on = true;
  std::atomic<int> changes = 0;
  std::atomic<int> pause = 0;  // milliseconds; without a pause, the camera hardly ever succeeds
  std::thread restless([&] {
    while (go_on) {
      changes += other.set({640, 360}, V4L2_PIX_FMT_YUYV) == 0;
      changes += other.set(hd, V4L2_PIX_FMT_YUYV) == 0;
      if (pause > 0) std::this_thread::sleep_for(std::chrono::milliseconds(pause));
    }
  });
  int started = 0;
  for (int i = 0; i < 40; ++i) {
    pause = i / 10;
    const int before = changes;
    for (int wait = 0; changes == before && wait < 1000; ++wait) std::this_thread::sleep_for(1ms);
    if (const auto start = camera->start(buffers); !start) {
      EXPECT_EQ(start.error().code(), EBUSY) << start.error().message();
      continue;
    }
    ++started;
    EXPECT_EQ(other.format(), std::pair(hd, std::uint32_t{V4L2_PIX_FMT_XBGR32}));
    must(camera->stop());
  }
  go_on = false;
  restless.join();
  std::printf("%d of 40 starts, %d changes\n", started, changes.load());
  must(camera->start(buffers), "once it is quiet");
  expect_as_agreed(*camera, other);
}

TEST_P(V4l2Others, AnOutputsFormatIsSetAgainToo) {
  const LeakCheck leaks;
  const std::string path = vivid(Kind::output, multiplanar());
  auto output = must(Output::open(path));
  const Other other(path, Kind::output, multiplanar());
  StreamConfig config;
  config.layout = must(Layout::linear(formats::xrgb8888, hd));
  must(output->set_input(config), "set_input");
  const std::pair agreed = other.format();
  config.constraints.min_object_size[0] = std::uint64_t{config.layout.planes[0].stride} * hd.height;
  const auto buffers = heap_buffers(config, 3);
  (void)other.set({640, 360}, V4L2_PIX_FMT_YUYV);
  if (other.format() == agreed) GTEST_SKIP() << "vivid's output does not change";
  must(output->import(buffers[0]), "import");
  EXPECT_EQ(other.format(), agreed);
  (void)other.set({640, 360}, V4L2_PIX_FMT_YUYV);
  must(output->start(buffers), "start");
  EXPECT_EQ(other.format(), agreed);
  must(output->stop());
}

/// Takes frames until one has this visible part.
bool becomes_visible(Camera& camera, const Rect& part) {
  for (int i = 0; i < 10; ++i) {
    if (capture_one(camera).info().visible == part) return true;
  }
  return false;
}

TEST_P(V4l2Others, TheVisiblePartFollowsTheDriverInMidStream) {
  const LeakCheck leaks;
  const std::string path = vivid(Kind::capture, multiplanar());
  auto camera = must(Camera::open(path, {.input = "HDMI"}));
  const Other other(path, Kind::capture, multiplanar());
  set_input(*camera, hd, formats::xrgb8888);
  must(camera->start(heap_buffers(camera->output(), 4)), "start");
  ASSERT_EQ(capture_one(*camera).info().visible, other.composed());
  const Rect before = other.composed();
  const auto cropped = camera->set_crop({0, 0, 160, 90});
  observe("vivid's HDMI input crops in mid-stream", cropped ? "yes" : outcome(cropped.error()), "docs/v4l2.md");
  observe("vivid's HDMI input composes less under a crop to a quarter of a quarter", other.composed() != before,
          "docs/v4l2.md");
  EXPECT_TRUE(becomes_visible(*camera, other.composed())) << "after a crop of our own";
  for (const Rect part : {Rect{100, 100, 320, 180}, Rect{0, 0, 640, 360}}) {
    const int result = other.select(V4L2_SEL_TGT_COMPOSE, part);
    observe("vivid's HDMI input composes in mid-stream by another program", result == 0, "docs/v4l2.md");
    EXPECT_TRUE(becomes_visible(*camera, other.composed())) << "by another program";
  }
  (void)other.select(V4L2_SEL_TGT_CROP, {0, 0, 1280, 720});
  (void)other.select(V4L2_SEL_TGT_COMPOSE, {0, 0, 1280, 720});
  EXPECT_TRUE(becomes_visible(*camera, other.composed()));
  must(camera->stop());
}

TEST_P(V4l2Others, RectanglesChangedBeforeTheStartAreSetAgain) {
  const LeakCheck leaks;
  const std::string path = vivid(Kind::capture, multiplanar());
  auto camera = must(Camera::open(path, {.input = "HDMI"}));
  const Other other(path, Kind::capture, multiplanar());
  set_input(*camera, hd, formats::xrgb8888);
  const Rect agreed = other.composed();
  const auto buffers = heap_buffers(camera->output(), 4);
  (void)other.select(V4L2_SEL_TGT_CROP, {0, 0, 640, 360});
  (void)other.select(V4L2_SEL_TGT_COMPOSE, {64, 64, 320, 180});
  must(camera->start(buffers), "start");
  EXPECT_EQ(other.composed(), agreed);
  EXPECT_EQ(capture_one(*camera).info().visible, agreed);
}

}  // namespace
}  // namespace dmaflow::test
