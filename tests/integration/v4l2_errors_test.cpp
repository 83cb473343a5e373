// v4l2::Camera with invalid input and failing devices. Each error is clear, and nothing is leaked.
#include "v4l2_support.hpp"

#include <functional>

#include <grp.h>
#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

using v4l2::Camera;

std::string camera_path(bool multiplanar = false) { return vivid(Kind::capture, multiplanar); }

testing::AssertionResult says(const Error& error, std::string_view text) {
  if (error.message().find(text) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << text << "\" is not in: " << error.message();
}

/// The value of a result that must be an error.
template <typename T>
Error refusal(const Result<T>& result) {
  EXPECT_FALSE(result) << "it succeeded";
  return result ? Error::os(EDOM, "none") : result.error();
}

TEST(V4l2Open, NoSuchFile) {
  const LeakCheck leaks;
  const auto error = refusal(Camera::open("/dev/video99"));
  EXPECT_EQ(error.code(), ENOENT);
  EXPECT_TRUE(says(error, "/dev/video99"));
}

TEST(V4l2Open, NotAV4l2Device) {
  const LeakCheck leaks;
  for (const char* path : {"/dev/null", "/dev/dri/card0", "/proc/self/status"}) {
    const auto error = refusal(Camera::open(path));
    if (error.operation() == "open") continue;  // it cannot even be opened
    EXPECT_EQ(error.code(), ENOTTY) << path;
    EXPECT_TRUE(says(error, "it is not a V4L2 device"));
  }
  EXPECT_TRUE(fails_with(Camera::open("/dev/null"), ENOTTY));
}

TEST(V4l2Open, ADeviceOfTheOtherKindIsNamed) {
  const LeakCheck leaks;
  EXPECT_TRUE(says(refusal(Camera::open(vivid(Kind::output, false))), "v4l2::Output"));
  EXPECT_TRUE(says(refusal(Camera::open(vivid(Kind::output, true))), "v4l2::Output"));
  EXPECT_TRUE(says(refusal(v4l2::Output::open(camera_path())), "v4l2::Camera"));
}

TEST(V4l2Open, WithoutPermissionItNamesTheGroup) {
  const LeakCheck leaks;
  const std::string path = camera_path();
  ASSERT_EQ(::setgroups(0, nullptr), 0);
  ASSERT_EQ(::setegid(65534), 0);
  ASSERT_EQ(::seteuid(65534), 0);
  const auto camera = Camera::open(path);
  ASSERT_EQ(::seteuid(0), 0);
  ASSERT_EQ(::setegid(0), 0);
  const auto error = refusal(camera);
  EXPECT_EQ(error.code(), EACCES);
  EXPECT_TRUE(says(error, "group `video`"));
}

TEST(V4l2Adopt, TakesTheDescriptorAndClosesItAlsoOnErrors) {
  const LeakCheck leaks;
  const int own = ::open(camera_path().c_str(), O_RDWR | O_CLOEXEC);  // blocking, as other programs open it
  {
    auto camera = must(Camera::adopt(must(Fd::dup_of(own))));
    EXPECT_EQ(camera->info().path, camera_path());
    set_input(*camera, {640, 480}, formats::xrgb8888);
    must(camera->start(own_buffers(*camera, 4)));
    while (must(camera->take())) continue;  // must not block
    EXPECT_EQ(capture(*camera, 3).size(), 3U);
  }
  v4l2_capability caps{};
  EXPECT_EQ(::ioctl(own, VIDIOC_QUERYCAP, &caps), 0) << "the user's own descriptor is still open";
  ::close(own);
  EXPECT_TRUE(fails_with(Camera::adopt(Fd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC))), ENOTTY));
  EXPECT_TRUE(fails_with(Camera::adopt(Fd{}), EBADF));
}

TEST(V4l2Offers, WhatItLacksIsRefusedWithWhatItHas) {
  const LeakCheck leaks;
  auto camera = must(Camera::open(camera_path()));
  StreamRequest request;
  request.formats = {formats::h264};
  auto error = refusal(camera->offers(request));
  EXPECT_EQ(error.code(), EINVAL);
  EXPECT_TRUE(says(error, "H264"));
  EXPECT_TRUE(says(error, " XR24 "));
  request.formats = {formats::xrgb8888};
  request.size = Size{641, 481};
  error = refusal(camera->offers(request));
  EXPECT_TRUE(says(error, "641x481"));
  const Size smallest = must(camera->sizes(must(camera->formats()).front())).front().min;
  EXPECT_TRUE(says(error, std::to_string(smallest.width) + "x" + std::to_string(smallest.height)));
  EXPECT_TRUE(says(error, "/s"));
  request.size = Size{640, 480};
  request.interval = Interval{1, 77};
  error = refusal(camera->offers(request));
  EXPECT_TRUE(says(error, "77/s"));
}

TEST(V4l2Offers, SizesOutOfRangeAreRefused) {
  auto camera = must(Camera::open(camera_path()));
  for (const Size size : {Size{0, 0}, Size{0, 480}, Size{640, 0}, Size{16385, 480}, Size{640, ~0U}}) {
    StreamRequest request;
    request.size = size;
    EXPECT_TRUE(fails_with(camera->offers(request), EINVAL)) << size.width << "x" << size.height;
    StreamConfig config;
    config.layout.size = size;
    config.layout.format = formats::xrgb8888;
    config.layout.modifier = Modifier::linear();
    config.layout.plane_count = 1;
    EXPECT_TRUE(fails_with(camera->set_output(config), EINVAL)) << size.width << "x" << size.height;
  }
}

TEST(V4l2Offers, OddSizesOfSubsampledFormatsAreRefusedOrExact) {
  auto camera = must(Camera::open(camera_path(), {.input = "HDMI"}));  // an input with a scaler
  StreamRequest request;
  request.size = Size{641, 481};
  for (const PixelFormat format : {formats::nv12, formats::yuyv, formats::yuv420}) {
    request.formats = {format};
    const auto offers = camera->offers(request);
    observe("vivid's HDMI input scales " + format.name() + " to 641x481", offers.has_value());
    if (offers) {
      must(camera->set_output(offers->front()), "set_output");
      EXPECT_EQ(camera->output().layout.size, *request.size) << format.name();
    } else {
      EXPECT_EQ(offers.error().code(), EINVAL) << offers.error().message();
      EXPECT_TRUE(says(offers.error(), "641x481"));
    }
  }
}

TEST(V4l2Start, BufferCountsOutOfRangeAreRefused) {
  const LeakCheck leaks;
  auto camera = must(Camera::open(camera_path()));
  EXPECT_TRUE(fails_with(camera->start({}), EINVAL)) << "before set_output";
  set_input(*camera, {320, 180}, formats::xrgb8888);
  EXPECT_GE(camera->min_buffers(), 1U);
  EXPECT_TRUE(fails_with(camera->start({}), EINVAL));
  const auto few = heap_buffers(camera->output(), camera->min_buffers() - 1);
  EXPECT_TRUE(fails_with(camera->start(few), EINVAL)) << few.size();
  const auto one = heap_buffer(camera->output());
  const std::vector<Buffer> many(1000, one);
  EXPECT_TRUE(fails_with(camera->start(many), EINVAL));
  const std::vector<Buffer> twice(4, one);
  EXPECT_TRUE(says(refusal(camera->start(twice)), "twice"));
  Request request;
  request.size = {320, 180};
  request.format = formats::xrgb8888;
  for (const std::uint32_t count : {0U, 65U, 1000U}) {
    request.count = count;
    EXPECT_FALSE(camera->output_allocator()->allocate(request)) << count;
  }
  must(camera->start(own_buffers(*camera, camera->min_buffers())), "the fewest work");
  EXPECT_EQ(capture(*camera, 5).size(), 5U);
}

/// A driver that makes at most three buffers, however many are asked for.
class FewBuffers : public CountCalls {
 public:
  int before(const sys::Call& call) noexcept override {
    if (call.request == VIDIOC_REQBUFS) {
      auto* request = const_cast<v4l2_requestbuffers*>(static_cast<const v4l2_requestbuffers*>(call.argument));
      request->count = std::min(request->count, 3U);
    }
    return CountCalls::before(call);
  }
};

TEST(V4l2Start, ADriverThatGivesFewerBuffersIsNotTrusted) {
  const LeakCheck leaks;
  auto camera = must(Camera::open(camera_path()));
  set_input(*camera, {320, 180}, formats::xrgb8888);
  const auto buffers = heap_buffers(camera->output(), 4);
  const FewBuffers few;
  EXPECT_TRUE(says(refusal(camera->start(buffers)), "3 at most"));
  Request request;
  request.size = {320, 180};
  request.format = formats::xrgb8888;
  request.count = 4;
  EXPECT_TRUE(says(refusal(camera->output_allocator()->allocate(request)), "makes 3"));
}

TEST(V4l2Allocator, OnlyWhatTheCameraIsSetToIsMade) {
  const LeakCheck leaks;
  auto camera = must(Camera::open(camera_path()));
  Request request;
  request.size = {640, 480};
  request.format = formats::xrgb8888;
  EXPECT_TRUE(says(refusal(camera->output_allocator()->allocate(request)), "set_output() comes first"));
  set_input(*camera, {640, 480}, formats::xrgb8888);
  request.size = {320, 180};
  EXPECT_TRUE(says(refusal(camera->output_allocator()->allocate(request)), "set to 640x480"));
  request.size = {640, 480};
  const std::uint32_t stride = camera->output().layout.planes[0].stride;
  request.constraints.min_stride[0] = stride + 1;
  EXPECT_TRUE(says(refusal(camera->output_allocator()->allocate(request)), "stride " + std::to_string(stride)));
  request.constraints = {};
  request.constraints.min_object_size[0] = 1U << 30U;
  EXPECT_TRUE(fails_with(camera->output_allocator()->allocate(request), EINVAL));
  request.constraints = {};
  request.modifiers = {Modifier::from_value(0x0100000000000001)};
  EXPECT_TRUE(fails_with(camera->output_allocator()->allocate(request), EINVAL));
}

TEST(V4l2Busy, ASecondUserIsToldSo) {
  const LeakCheck leaks;
  auto first = must(Camera::open(camera_path()));
  auto second = must(Camera::open(camera_path()));
  set_input(*first, {640, 480}, formats::xrgb8888);
  must(first->start(own_buffers(*first, 4)));
  StreamRequest request;
  request.size = Size{640, 480};
  request.formats = {formats::xrgb8888};
  auto offers = second->offers(request);
  ASSERT_TRUE(offers) << offers.error().message();
  const auto error = refusal(second->set_output(offers->front()));
  EXPECT_EQ(error.code(), EBUSY);
  EXPECT_TRUE(says(error, camera_path()));
  EXPECT_TRUE(says(error, "in use"));
  EXPECT_TRUE(fails_with(first->set_output(first->output()), EBUSY)) << "while started";
  EXPECT_EQ(capture(*first, 5).size(), 5U) << "the first goes on";
}

/// A camera that is ready to start, and a way to set one of vivid's error controls.
struct Injection {
  std::unique_ptr<Camera> camera = must(Camera::open(camera_path()));
  Injection() { set_input(*camera, {640, 480}, formats::xrgb8888); }
  void inject(const char* control) const { must(camera->set_control(control, 1), control); }
};

TEST(V4l2Injected, ReqbufsError) {
  const LeakCheck leaks;
  const Injection on;
  const auto buffers = heap_buffers(on.camera->output(), 4);
  on.inject("Inject VIDIOC_REQBUFS Error");
  EXPECT_EQ(refusal(on.camera->start(buffers)).operation(), "VIDIOC_REQBUFS");
  EXPECT_EQ(on.camera->holds(), nullptr);
  must(on.camera->start(buffers), "the next time it works");
}

TEST(V4l2Injected, QbufErrorAtStart) {
  const LeakCheck leaks;
  const Injection on;
  const auto buffers = own_buffers(*on.camera, 4);
  on.inject("Inject VIDIOC_QBUF Error");
  EXPECT_EQ(refusal(on.camera->start(buffers)).operation(), "VIDIOC_QBUF");
  EXPECT_EQ(on.camera->holds(), nullptr);
  must(on.camera->start(buffers), "the next time it works");
}

TEST(V4l2Injected, QbufErrorWhileStreamingLosesNoBuffer) {
  const LeakCheck leaks;
  const Injection on;
  must(on.camera->start(own_buffers(*on.camera, 4)));
  Frame frame = capture_one(*on.camera);
  on.inject("Inject VIDIOC_QBUF Error");
  frame.release();
  EXPECT_EQ(refusal(on.camera->dispatch(0)).operation(), "VIDIOC_QBUF");
  std::set<std::uint32_t> used;
  for (int i = 0; i < 40 && used.size() < 4; ++i) used.insert(capture_one(*on.camera).index());
  EXPECT_EQ(used.size(), 4U) << "the buffer refused once is queued the next time";
}

TEST(V4l2Injected, StreamonErrorLeavesItStoppedAndEmpty) {
  const LeakCheck leaks;
  const Injection on;
  const auto buffers = own_buffers(*on.camera, 4);
  on.inject("Inject VIDIOC_STREAMON Error");
  EXPECT_EQ(refusal(on.camera->start(buffers)).operation(), "VIDIOC_STREAMON");
  EXPECT_EQ(on.camera->holds(), nullptr);
  EXPECT_EQ(on.camera->poll_events(), 0);
  must(on.camera->stop(), "stopping what is stopped");
  must(on.camera->start(buffers), "the next time it works");
  EXPECT_EQ(capture(*on.camera, 3).size(), 3U);
}

TEST(V4l2Injected, ADamagedFrameIsDeliveredMarked) {
  const Injection on;
  must(on.camera->start(own_buffers(*on.camera, 4)));
  on.inject("Inject V4L2_BUF_FLAG_ERROR");
  const auto frames = capture(*on.camera, 10);
  EXPECT_EQ(std::count_if(frames.begin(), frames.end(), [](const FrameInfo& f) { return f.is_erroneous; }), 1);
}

/// Runs the loop until the camera returns an error.
std::optional<Error> run_into_error(Camera& camera) {
  for (int i = 0; i < 600; ++i) {
    Result<void> dispatched;
    if (!turn(camera, &dispatched)) break;
    if (!dispatched) return dispatched.error();
    auto frame = camera.take();
    if (!frame) return frame.error();
  }
  return std::nullopt;
}

TEST(V4l2Injected, AFatalErrorEndsTheStreamAndARestartWorks) {
  const LeakCheck leaks;
  const Injection on;
  must(on.camera->start(own_buffers(*on.camera, 4)));
  capture(*on.camera, 3);
  on.inject("Inject Fatal Streaming Error");
  const auto error = run_into_error(*on.camera);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), EIO);
  EXPECT_TRUE(says(*error, "stop and start it again"));
  must(on.camera->stop());
  must(on.camera->start(own_buffers(*on.camera, 4)));
  EXPECT_EQ(capture(*on.camera, 3).size(), 3U);
}

TEST(V4l2Injected, DroppedFramesAreGapsInTheSequence) {
  const Injection on;
  must(on.camera->set_control("Percentage of Dropped Buffers", 50));
  must(on.camera->start(own_buffers(*on.camera, 4)));
  const auto frames = capture(*on.camera, 30);
  must(on.camera->set_control("Percentage of Dropped Buffers", 0));
  ASSERT_EQ(frames.size(), 30U);
  EXPECT_GT(frames.back().sequence - frames.front().sequence, 30U);
}

TEST(V4l2Injected, DisconnectedWhileStreaming) {
  const LeakCheck leaks;
  const std::string path = camera_path();
  {
    const Injection on;
    must(on.camera->start(own_buffers(*on.camera, 4)));
    Frame held = capture_one(*on.camera);
    on.inject("Disconnect");
    const auto error = run_into_error(*on.camera);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ENODEV);
    EXPECT_TRUE(says(*error, path));
    EXPECT_TRUE(says(*error, "gone"));
    must(on.camera->stop(), "stopping a camera that is gone");
    EXPECT_TRUE(held) << "held frames stay";
  }
  const auto again = Camera::open(path);
  observe("vivid registers its nodes again once the last user has closed them", again.has_value(), "docs/v4l2.md");
  if (!again) {
    EXPECT_TRUE(says(again.error(), path));
  }
}

/// Lets the driver answer each DQBUF, and then alters the answer to one that vivid never gives but other drivers do.
class AlteredDqbuf : public CountCalls {
 public:
  explicit AlteredDqbuf(std::function<void(v4l2_buffer&)> alter) : alter_(std::move(alter)) {}
  int before(const sys::Call& call) noexcept override {
    if (call.request != VIDIOC_DQBUF) return proceed;
    auto* buffer = const_cast<v4l2_buffer*>(static_cast<const v4l2_buffer*>(call.argument));
    if (::ioctl(call.fd, call.request, buffer) < 0) return errno;
    alter_(*buffer);
    return pretend;
  }

 private:
  std::function<void(v4l2_buffer&)> alter_;
};

TEST(V4l2End, TheLastFrameIsMarkedAndThenTheStreamHasEnded) {
  const LeakCheck leaks;
  const Injection on;
  must(on.camera->start(own_buffers(*on.camera, 4)));
  const AlteredDqbuf last([](v4l2_buffer& buffer) { buffer.flags |= V4L2_BUF_FLAG_LAST; });
  EXPECT_TRUE(capture_one(*on.camera).info().is_last);
  EXPECT_EQ(on.camera->poll_events(), 0) << "nothing more to wait for";
  EXPECT_TRUE(fails_with(on.camera->take(), EPIPE));
  must(on.camera->stop());
}

TEST(V4l2End, AnEmptyLastBufferIsNoFrame) {
  const Injection on;
  must(on.camera->start(own_buffers(*on.camera, 4)));
  const AlteredDqbuf last([](v4l2_buffer& buffer) {
    buffer.flags |= V4L2_BUF_FLAG_LAST;
    buffer.bytesused = 0;
  });
  const auto error = run_into_error(*on.camera);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), EPIPE);
}

TEST(V4l2End, EpipeIsTheEnd) {
  const Injection on;
  must(on.camera->start(own_buffers(*on.camera, 4)));
  const FailNth ended(1, EPIPE, "ioctl", VIDIOC_DQBUF);
  const auto error = run_into_error(*on.camera);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), EPIPE);
  EXPECT_TRUE(says(*error, "ended"));
  EXPECT_TRUE(fails_with(on.camera->take(), EPIPE)) << "and stays so";
}

TEST(V4l2Driver, BytesBeforeThePixelsAreRefusedForNoLayoutSaysThem) {
  const LeakCheck leaks;
  auto camera = must(Camera::open(camera_path(true)));
  set_input(*camera, {640, 480}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  const AlteredDqbuf offset([](v4l2_buffer& buffer) { buffer.m.planes[0].data_offset = 128; });
  const auto error = run_into_error(*camera);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ENOTSUP);
  EXPECT_TRUE(says(*error, "128 bytes"));
}

TEST(V4l2Driver, ABufferItDoesNotHaveIsNotBelieved) {
  for (const std::uint32_t nonsense : {7U, ~0U}) {
    const Injection on;
    must(on.camera->start(own_buffers(*on.camera, 4)));
    const AlteredDqbuf other([nonsense](v4l2_buffer& buffer) { buffer.index = nonsense; });
    const auto error = run_into_error(*on.camera);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), EPROTO);
  }
}

/// Opens, configures, tries, allocates, starts and stops: everything that happens before frames flow.
Result<void> set_up(const std::string& path, bool own) {
  auto camera = Camera::open(path);
  if (!camera) return std::unexpected(camera.error());
  StreamRequest request;
  request.size = Size{320, 180};
  request.formats = {formats::xrgb8888};
  auto offers = (*camera)->offers(request);
  if (!offers) return std::unexpected(offers.error());
  if (auto set = (*camera)->set_output(offers->front()); !set) return set;
  std::vector<Buffer> buffers;
  if (own) {
    Request wish;
    wish.size = *request.size;
    wish.format = formats::xrgb8888;
    wish.count = 4;
    auto made = (*camera)->output_allocator()->allocate(wish);
    if (!made) return std::unexpected(made.error());
    buffers = std::move(*made);
  } else {
    buffers = heap_buffers((*camera)->output(), 4);
    if (auto tried = (*camera)->try_output(buffers[0]); !tried) return tried;
  }
  if (auto started = (*camera)->start(buffers); !started) return started;
  return (*camera)->stop();
}

class V4l2Faults : public ::testing::TestWithParam<std::tuple<bool, bool>> {};
INSTANTIATE_TEST_SUITE_P(Each, V4l2Faults, ::testing::Combine(::testing::Bool(), ::testing::Bool()),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) ? "multiplanar" : "singleplanar") +
                                  (std::get<1>(test.param) ? "Own" : "Heap");
                         });

TEST_P(V4l2Faults, AnyIoctlThatFailsInSetUpLeaksNothing) {
  const auto [multiplanar, own] = GetParam();
  const std::string path = camera_path(multiplanar);
  // Listing formats and controls takes hundreds of calls whose failure only shortens the list; these calls matter.
  for (const unsigned long request :
       {VIDIOC_QUERYCAP, VIDIOC_S_FMT, VIDIOC_G_FMT, VIDIOC_TRY_FMT, VIDIOC_REQBUFS, VIDIOC_CREATE_BUFS, VIDIOC_EXPBUF,
        VIDIOC_QBUF, VIDIOC_STREAMON, VIDIOC_STREAMOFF, VIDIOC_S_PARM, VIDIOC_G_PARM, VIDIOC_SUBSCRIBE_EVENT,
        VIDIOC_ENUMINPUT, VIDIOC_G_INPUT}) {
    bool fired = true;
    for (std::size_t nth = 1; fired && nth < 40; ++nth) {
      const LeakCheck leaks;
      const FailNth fault(nth, EIO, "ioctl", request);
      const auto done = set_up(path, own);
      fired = fault.fired();
      if (!done) {
        EXPECT_EQ(done.error().code(), EIO) << done.error().message();
        EXPECT_TRUE(says(done.error(), "VIDIOC_"));
        EXPECT_TRUE(says(done.error(), path));
      }
    }
  }
}

TEST_P(V4l2Faults, AnyOtherCallThatFailsInSetUpLeaksNothing) {
  const auto [multiplanar, own] = GetParam();
  const std::string path = camera_path(multiplanar);
  for (const std::string_view name : {"open", "fstat", "lseek", "eventfd", "fcntl", "dup"}) {
    bool fired = true;
    for (std::size_t nth = 1; fired && nth < 60; ++nth) {
      if (!own && name != "open" && name != "eventfd") break;  // would fail in the test's own allocation
      const LeakCheck leaks;
      const FailNth fault(nth, EMFILE, std::string(name));
      const auto done = set_up(path, own);
      fired = fault.fired();
      EXPECT_EQ(!done, fired) << name << " " << nth;
    }
  }
}

}  // namespace
}  // namespace dmaflow::test
