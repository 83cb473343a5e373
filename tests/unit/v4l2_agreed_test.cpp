// Camera and Output when another program changes the device between agreement and start: tested with a fake driver
// behind the system-call seam. It keeps videobuf2's rules (no format change while the queue has slots), and models no
// real driver.
#include "fake.hpp"

#include <dmaflow/v4l2.hpp>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

/// A single-planar device with two sizes, two formats and two inputs, which crops and composes.
class FakeDriver : public PretendDmaBufs {
 public:
  explicit FakeDriver(bool is_output = false) : output_(is_output), file_(memfd(4096)) {
    format = make_format(V4L2_PIX_FMT_YUYV, {640, 360}, 0);
    compose = crop = whole();
  }
  FakeDriver(const FakeDriver&) = delete;
  FakeDriver& operator=(const FakeDriver&) = delete;
  [[nodiscard]] Fd descriptor() const { return must(Fd::dup_of(file_.get())); }

  int before(const sys::Call& call) noexcept override {
    if (std::string_view(call.name) != "ioctl" || !is_ours(call.fd)) return PretendDmaBufs::before(call);
    calls.push_back(call.request);
    const int error = answer(call.request, const_cast<void*>(call.argument));
    if (on_call) on_call(call.request);
    return error == 0 ? pretend : error;
  }
  [[nodiscard]] std::ptrdiff_t count(unsigned long request) const { return std::ranges::count(calls, request); }

  // The state that "another program" changes.
  v4l2_pix_format format{};
  Rect crop;
  Rect compose;
  int port = 0;
  v4l2_fract interval{1, 30};
  std::uint32_t colorspace = V4L2_COLORSPACE_SRGB;
  std::uint32_t field = V4L2_FIELD_NONE;

  // What makes the test case difficult.
  bool keeps_format = false;      ///< S_FMT succeeds and changes nothing
  bool keeps_rectangles = false;  ///< S_SELECTION as well
  bool is_busy = false;           ///< another program has the queue
  bool can_compose = true;
  std::function<void(unsigned long)> on_call;  ///< after each call

  std::vector<unsigned long> calls;
  std::uint32_t slots = 0;
  bool streaming = false;

  static v4l2_pix_format make_format(std::uint32_t code, Size size, std::uint32_t stride) {
    v4l2_pix_format pix{};
    pix.width = size.width;
    pix.height = size.height;
    pix.pixelformat = code;
    pix.bytesperline = std::max(stride, size.width * (code == V4L2_PIX_FMT_YUYV ? 2 : 4));
    pix.sizeimage = pix.bytesperline * size.height;
    return pix;
  }
  [[nodiscard]] Rect whole() const { return {0, 0, format.width, format.height}; }

 private:
  [[nodiscard]] bool is_ours(int fd) const noexcept {
    struct stat a{};
    struct stat b{};
    return ::fstat(fd, &a) == 0 && ::fstat(file_.get(), &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
  }

  template <typename T>
  static T& as(void* argument) {
    return *static_cast<T*>(argument);
  }

  void fill(v4l2_format& out) const {
    out.fmt.pix = format;
    out.fmt.pix.colorspace = colorspace;
    out.fmt.pix.field = field;
  }

  int answer(unsigned long request, void* argument) {
    switch (request) {
      case VIDIOC_QUERYCAP: {
        auto& caps = as<v4l2_capability>(argument);
        caps = {};
        caps.capabilities = V4L2_CAP_DEVICE_CAPS;
        caps.device_caps = V4L2_CAP_STREAMING | (output_ ? V4L2_CAP_VIDEO_OUTPUT : V4L2_CAP_VIDEO_CAPTURE);
        std::copy_n("fake", 5, reinterpret_cast<char*>(caps.driver));
        return 0;
      }
      case VIDIOC_ENUM_FMT: {
        auto& entry = as<v4l2_fmtdesc>(argument);
        if (entry.index > 1) return EINVAL;
        entry.pixelformat = entry.index == 0 ? V4L2_PIX_FMT_XBGR32 : V4L2_PIX_FMT_YUYV;
        return 0;
      }
      case VIDIOC_ENUM_FRAMESIZES: {
        auto& entry = as<v4l2_frmsizeenum>(argument);
        if (entry.index > 1) return EINVAL;
        entry.type = V4L2_FRMSIZE_TYPE_DISCRETE;
        entry.discrete = entry.index == 0 ? v4l2_frmsize_discrete{1280, 720} : v4l2_frmsize_discrete{640, 360};
        return 0;
      }
      case VIDIOC_G_FMT:
        fill(as<v4l2_format>(argument));
        return 0;
      case VIDIOC_TRY_FMT:
      case VIDIOC_S_FMT: {
        auto& asked = as<v4l2_format>(argument).fmt.pix;
        if (request == VIDIOC_S_FMT && (is_busy || slots > 0)) return EBUSY;
        const v4l2_pix_format made = make_format(asked.pixelformat, {asked.width, asked.height}, asked.bytesperline);
        if (request == VIDIOC_S_FMT && !keeps_format) {
          format = made;
          compose = crop = whole();
        }
        asked = made;
        asked.colorspace = colorspace;
        asked.field = field;
        return 0;
      }
      case VIDIOC_ENUMINPUT: {
        auto& input = as<v4l2_input>(argument);
        if (input.index > 1 || output_) return EINVAL;
        std::copy_n(input.index == 0 ? "Lens" : "Line", 5, reinterpret_cast<char*>(input.name));
        return 0;
      }
      case VIDIOC_G_INPUT:
      case VIDIOC_G_OUTPUT:
        as<int>(argument) = port;
        return (request == VIDIOC_G_OUTPUT) == output_ ? 0 : ENOTTY;
      case VIDIOC_S_INPUT:
      case VIDIOC_S_OUTPUT:
        if (is_busy || slots > 0) return EBUSY;
        port = as<int>(argument);
        return 0;
      case VIDIOC_G_PARM:
      case VIDIOC_S_PARM: {
        auto& parm = as<v4l2_streamparm>(argument).parm;
        v4l2_fract& time = output_ ? parm.output.timeperframe : parm.capture.timeperframe;
        if (request == VIDIOC_S_PARM) interval = time;
        time = interval;
        return 0;
      }
      case VIDIOC_G_SELECTION:
      case VIDIOC_S_SELECTION: {
        auto& selection = as<v4l2_selection>(argument);
        if (!can_compose || output_) return EINVAL;
        Rect& rect = selection.target == V4L2_SEL_TGT_CROP ? crop : compose;
        v4l2_rect& out = selection.r;
        if (request == VIDIOC_S_SELECTION && !keeps_rectangles) {
          rect = {out.left, out.top, out.width, out.height};
          // A scaler enlarges four times at most.
          if (selection.target == V4L2_SEL_TGT_CROP) {
            compose.width = std::min(compose.width, 4 * crop.width);
            compose.height = std::min(compose.height, 4 * crop.height);
          }
        }
        out = {.left = rect.x, .top = rect.y, .width = rect.width, .height = rect.height};
        return 0;
      }
      case VIDIOC_REQBUFS: {
        auto& wanted = as<v4l2_requestbuffers>(argument);
        if (is_busy) return EBUSY;
        slots = wanted.count;
        queued_.clear();
        return 0;
      }
      case VIDIOC_EXPBUF:
        as<v4l2_exportbuffer>(argument).fd = memfd(format.sizeimage).release();
        return 0;
      case VIDIOC_QBUF:
        queued_.push_back(as<v4l2_buffer>(argument).index);
        return 0;
      case VIDIOC_DQBUF: {
        auto& buffer = as<v4l2_buffer>(argument);
        if (!streaming || queued_.empty()) return EAGAIN;
        buffer.index = queued_.front();
        buffer.sequence = sequence_++;
        buffer.bytesused = format.sizeimage;
        queued_.pop_front();
        return 0;
      }
      case VIDIOC_STREAMON:
      case VIDIOC_STREAMOFF:
        streaming = request == VIDIOC_STREAMON;
        return 0;
      default:
        return ENOTTY;
    }
  }

  bool output_;
  Fd file_;
  std::deque<std::uint32_t> queued_;
  std::uint32_t sequence_ = 0;
};

constexpr Size hd{1280, 720};
const v4l2_pix_format theirs = FakeDriver::make_format(V4L2_PIX_FMT_YUYV, {640, 360}, 0);

std::unique_ptr<v4l2::Camera> set_up(FakeDriver& driver) {
  auto camera = must(v4l2::Camera::adopt(driver.descriptor()), "adopt");
  StreamRequest request;
  request.size = hd;
  request.formats = {formats::xrgb8888};
  must(camera->set_output(must(camera->offers(request), "offers").front()), "set_output");
  return camera;
}

std::vector<Buffer> foreign(const StreamConfig& config, std::size_t count) {
  std::vector<Buffer> buffers;
  while (buffers.size() < count) buffers.push_back(memfd_buffer(config.layout, config.constraints));
  return buffers;
}

Result<std::vector<Buffer>> own(v4l2::Camera& camera, std::uint32_t count) {
  Request request;
  request.size = camera.output().layout.size;
  request.format = camera.output().layout.format;
  request.modifiers = {camera.output().layout.modifier};
  request.constraints = camera.output().constraints;
  request.count = count;
  return camera.output_allocator()->allocate(request);
}

template <typename T>
std::string said(const Result<T>& result) {
  return result ? "nothing" : result.error().message();
}
testing::AssertionResult has(const std::string& text, std::string_view part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << part << "\" is not in: " << text;
}

/// Changes by another program, each to a device that is set to 1280x720 XRGB8888, and what the error says about them.
struct Change {
  const char* name;
  void (*make)(FakeDriver&);
  bool (*is_undone)(const FakeDriver&);
  const char* now;
  const char* agreed;
};
const Change format_changes[] = {
    {"Size", [](FakeDriver& d) { d.format = FakeDriver::make_format(V4L2_PIX_FMT_XBGR32, {640, 360}, 0); },
     [](const FakeDriver& d) { return d.format.width == 1280; }, "640x360 XRGB8888", "1280x720 XRGB8888"},
    {"SizeAndFormat", [](FakeDriver& d) { d.format = theirs; },
     [](const FakeDriver& d) { return d.format.pixelformat == V4L2_PIX_FMT_XBGR32; }, "640x360 YUYV",
     "1280x720 XRGB8888"},
    {"Stride", [](FakeDriver& d) { d.format = FakeDriver::make_format(V4L2_PIX_FMT_XBGR32, hd, 8192); },
     [](const FakeDriver& d) { return d.format.bytesperline == 5120; }, "stride 8192", "stride 5120"},
    {"ImageSize", [](FakeDriver& d) { d.format.sizeimage += 4096; },
     [](const FakeDriver& d) { return d.format.sizeimage == 5120 * 720; }, "3690496 bytes", "3686400 bytes"},
};

class V4l2Agreed : public testing::TestWithParam<Change> {};
INSTANTIATE_TEST_SUITE_P(Changed, V4l2Agreed, testing::ValuesIn(format_changes),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(V4l2Agreed, ACameraIsSetAgainBeforeABufferIsQueued) {
  FakeDriver driver;
  auto camera = set_up(driver);
  const auto buffers = foreign(camera->output(), 3);
  must(camera->try_output(buffers[0]), "try_output");
  GetParam().make(driver);
  driver.on_call = [&](unsigned long request) {
    if (request == VIDIOC_QBUF) {
      EXPECT_TRUE(GetParam().is_undone(driver)) << "queued before it was checked";
    }
  };
  must(camera->start(buffers), "start");
  EXPECT_TRUE(driver.streaming);
  EXPECT_TRUE(GetParam().is_undone(driver));
  EXPECT_TRUE(must(camera->take()));
}

TEST_P(V4l2Agreed, SoItIsWhereABufferIsTriedAndWhereItsOwnAreMade) {
  FakeDriver driver;
  auto camera = set_up(driver);
  GetParam().make(driver);
  must(camera->try_output(foreign(camera->output(), 1)[0]), "try_output");
  EXPECT_TRUE(GetParam().is_undone(driver));
  GetParam().make(driver);
  const auto buffers = must(own(*camera, 3), "allocate");
  EXPECT_TRUE(GetParam().is_undone(driver));
  must(camera->start(buffers), "start");
  EXPECT_TRUE(must(camera->take()));
}

TEST_P(V4l2Agreed, WhatTheDriverInsistsOnIsOneClearErrorAndNothingIsQueued) {
  FakeDriver driver;
  auto camera = set_up(driver);
  const auto buffers = foreign(camera->output(), 3);
  GetParam().make(driver);
  driver.keeps_format = true;
  driver.calls.clear();
  for (int i = 0; i < 3; ++i) {
    const std::string text = i == 0   ? said(camera->start(buffers))
                             : i == 1 ? said(camera->try_output(buffers[0]))
                                      : said(own(*camera, 3));
    EXPECT_TRUE(has(text, "another program set the device to"));
    EXPECT_TRUE(has(text, GetParam().now));
    EXPECT_TRUE(has(text, "agreed was 1280x720 XRGB8888"));
    EXPECT_TRUE(has(text, GetParam().agreed));
    EXPECT_TRUE(has(text, "prepare again"));
    EXPECT_EQ(driver.slots, 0U);
  }
  EXPECT_TRUE(fails_with(camera->start(buffers), EBUSY));
  EXPECT_EQ(driver.count(VIDIOC_QBUF), 0);
  EXPECT_EQ(driver.count(VIDIOC_STREAMON), 0);
  driver.keeps_format = false;
  must(camera->start(buffers), "once the other program is gone");
}

/// A driver that changes its format while it has slots breaks videobuf2's rule. Even then the camera checks the format
/// before it queues its own buffers.
TEST_P(V4l2Agreed, ItsOwnBuffersAreNotQueuedForAnotherFormat) {
  FakeDriver driver;
  auto camera = set_up(driver);
  const auto buffers = must(own(*camera, 3), "allocate");
  GetParam().make(driver);
  driver.calls.clear();
  const auto started = camera->start(buffers);
  ASSERT_TRUE(fails_with(started, EBUSY));
  EXPECT_TRUE(has(said(started), GetParam().now));
  EXPECT_EQ(driver.count(VIDIOC_QBUF), 0);
}

TEST_P(V4l2Agreed, AnOutputIsSetAgainOrRefused) {
  FakeDriver driver(true);
  auto output = must(v4l2::Output::adopt(driver.descriptor(), {}), "adopt");
  StreamConfig config = small_config(formats::xrgb8888, hd);
  must(output->set_input(config), "set_input");
  config.constraints.min_object_size[0] = 5120 * 720;
  const auto buffers = foreign(config, 3);
  GetParam().make(driver);
  must(output->import(buffers[0]), "import");
  EXPECT_TRUE(GetParam().is_undone(driver));
  GetParam().make(driver);
  must(output->start(buffers), "start");
  EXPECT_TRUE(GetParam().is_undone(driver));
  must(output->stop());
  must(output->set_input(config), "set_input");
  GetParam().make(driver);
  driver.keeps_format = true;
  const auto started = output->start(buffers);
  ASSERT_TRUE(fails_with(started, EBUSY));
  EXPECT_TRUE(has(said(started), GetParam().now));
  EXPECT_TRUE(has(said(started), GetParam().agreed));
  EXPECT_EQ(driver.slots, 0U);
}

TEST(V4l2AgreedMore, WhoeverHasTheQueueMeanwhileIsNotDisturbed) {
  FakeDriver driver;
  auto camera = set_up(driver);
  const auto buffers = foreign(camera->output(), 3);
  driver.format = theirs;
  // Another program gets the queue between our REQBUFS 0 and S_FMT.
  driver.on_call = [&, zero = 0](unsigned long request) mutable {
    if (request == VIDIOC_REQBUFS && ++zero == 2) driver.is_busy = true;
  };
  const auto started = camera->start(buffers);
  ASSERT_TRUE(fails_with(started, EBUSY));
  EXPECT_TRUE(has(said(started), "640x360 YUYV"));
  EXPECT_EQ(driver.format.width, 640U);
}

TEST(V4l2AgreedMore, AnotherColourIsAnErrorForItCannotBeSet) {
  FakeDriver driver;
  auto camera = set_up(driver);
  const auto buffers = foreign(camera->output(), 3);
  driver.colorspace = V4L2_COLORSPACE_REC709;
  const auto started = camera->start(buffers);
  ASSERT_TRUE(fails_with(started, EBUSY));
  EXPECT_TRUE(has(said(started), "colour"));
  EXPECT_TRUE(has(said(started), "srgb"));
  EXPECT_TRUE(has(said(started), "prepare again"));
}

TEST(V4l2AgreedMore, AnotherFieldIsAnError) {
  FakeDriver driver;
  auto camera = set_up(driver);
  driver.field = V4L2_FIELD_ALTERNATE;
  const auto started = camera->start(foreign(camera->output(), 3));
  ASSERT_TRUE(fails_with(started, EBUSY));
  EXPECT_TRUE(has(said(started), "field 7"));
}

TEST(V4l2AgreedMore, AnotherInputIsLeftAndTheRateSetAgain) {
  for (const bool is_output : {false, true}) {
    FakeDriver driver(is_output);
    const auto change = [&] {
      driver.port = 1;
      driver.interval = {1, 5};
    };
    if (is_output) {
      auto output = must(v4l2::Output::adopt(driver.descriptor(), {}));
      StreamConfig config = small_config(formats::xrgb8888, hd);
      config.interval = {1, 30};
      must(output->set_input(config));
      change();
      must(output->start(foreign(config, 3)), "start");
    } else {
      auto camera = set_up(driver);
      const auto buffers = foreign(camera->output(), 3);
      change();
      must(camera->start(buffers), "start");
      EXPECT_EQ(camera->output().interval, (Interval{1, 30}));
    }
    EXPECT_EQ(driver.port, 0);
    EXPECT_EQ(driver.interval.denominator, 30U);
  }
}

TEST(V4l2AgreedMore, RectanglesAreSetAgainOrRefused) {
  for (const bool is_own : {false, true}) {
    FakeDriver driver;
    auto camera = set_up(driver);
    const auto buffers = is_own ? must(own(*camera, 3)) : foreign(camera->output(), 3);
    driver.crop = {0, 0, 640, 360};
    driver.compose = {10, 10, 320, 180};
    must(camera->start(buffers), "start");
    EXPECT_EQ(driver.crop, (Rect{0, 0, 1280, 720}));
    EXPECT_EQ(driver.compose, (Rect{0, 0, 1280, 720}));
    EXPECT_EQ(must(camera->take()).info().visible, (Rect{0, 0, 1280, 720}));
    must(camera->stop());
    driver.compose = {10, 10, 320, 180};
    driver.keeps_rectangles = true;
    driver.calls.clear();
    const auto started = camera->start(foreign(camera->output(), 3));
    ASSERT_TRUE(fails_with(started, EBUSY));
    EXPECT_TRUE(has(said(started), "compose 320x180 at 10,10"));
    EXPECT_TRUE(has(said(started), "compose 1280x720 at 0,0"));
    EXPECT_EQ(driver.count(VIDIOC_QBUF), 0);
  }
}

TEST(V4l2AgreedMore, RectanglesSetThroughTheCameraAreThoseAgreedOn) {
  FakeDriver driver;
  auto camera = set_up(driver);
  const Rect part{320, 180, 640, 360};
  must(camera->set_crop(part));
  must(camera->set_compose(part));
  must(camera->start(foreign(camera->output(), 3)), "start");
  EXPECT_EQ(driver.crop, part);
  EXPECT_EQ(driver.compose, part);
  EXPECT_EQ(must(camera->take()).info().visible, part);
}

TEST(V4l2Visible, FollowsTheDriverInMidStreamWhoeverChangesIt) {
  FakeDriver driver;
  auto camera = set_up(driver);
  must(camera->start(foreign(camera->output(), 4)), "start");
  EXPECT_EQ(must(camera->take()).info().visible, (Rect{0, 0, 1280, 720}));
  must(camera->set_crop({0, 0, 160, 90}));
  EXPECT_EQ(driver.compose, (Rect{0, 0, 640, 360})) << "the fake scaler";
  EXPECT_EQ(must(camera->take()).info().visible, (Rect{0, 0, 640, 360})) << "of a crop of ours";
  driver.compose = {100, 100, 320, 180};
  EXPECT_EQ(must(camera->take()).info().visible, (Rect{100, 100, 320, 180})) << "by another program";
}

TEST(V4l2Visible, CostsOneCallAFrameAndOnlyWhereTheDeviceCanCompose) {
  for (const bool can_compose : {true, false}) {
    FakeDriver driver;
    driver.can_compose = can_compose;
    auto camera = set_up(driver);
    must(camera->start(foreign(camera->output(), 4)), "start");
    driver.calls.clear();
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(must(camera->take()));
    EXPECT_EQ(driver.count(VIDIOC_DQBUF), 4);
    EXPECT_EQ(driver.calls.size(), can_compose ? 8U : 4U);
    EXPECT_FALSE(must(camera->take())) << "nothing is done";
    EXPECT_EQ(driver.count(VIDIOC_G_SELECTION), can_compose ? 4 : 0) << "without a frame nothing is asked";
  }
}

TEST(V4l2AgreedMore, AfterAnotherInputWasChosenNothingIsMadeForTheOldStream) {
  FakeDriver driver;
  auto camera = set_up(driver);
  ASSERT_TRUE(own(*camera, 2));
  must(camera->select_input("Line"));
  EXPECT_TRUE(fails_with(own(*camera, 2), EINVAL));
}

}  // namespace
}  // namespace dmaflow::test
