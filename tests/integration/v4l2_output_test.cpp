// v4l2::Output: a video output device as a sink (vivid's, in the lab).
#include "v4l2_support.hpp"

#include <dmaflow/pool.hpp>

#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;
using v4l2::Output;

class V4l2Output : public ::testing::TestWithParam<bool> {
 protected:
  static std::unique_ptr<Output> open(const Output::Options& options = {}) {
    return must(Output::open(vivid(Kind::output, GetParam()), options), "open");
  }
};
INSTANTIATE_TEST_SUITE_P(Api, V4l2Output, ::testing::Values(false, true),
                         [](const auto& test) { return test.param ? "multiplanar" : "singleplanar"; });

StreamConfig stream(Size size = {1280, 720}, PixelFormat format = formats::xrgb8888) {
  StreamConfig config;
  config.layout = must(Layout::linear(format, size));
  for (std::uint32_t i = 0; i < config.layout.plane_count; ++i) {
    config.constraints.min_stride[i] = config.layout.planes[i].stride;
  }
  config.constraints.min_object_size = config.layout.object_sizes();
  return config;
}

std::vector<Buffer> buffers_of(Pool& pool, std::uint32_t count) {
  std::vector<Frame> all;
  std::vector<Buffer> buffers;
  for (std::uint32_t i = 0; i < count; ++i) {
    all.push_back(must(pool.acquire()));
    buffers.push_back(all.back().buffer());
  }
  return buffers;
}

Frame numbered(Pool& pool, std::uint64_t sequence) {
  FrameInfo info;
  info.sequence = sequence;
  return must(pool.acquire(info), "acquire");
}

bool turn(Output& output) {
  const short events = output.poll_events();
  if (events == 0) return false;
  const int ready = sys::wait(output.poll_fd(), events, Deadline::after(20s));
  if (ready <= 0) return false;
  must(output.dispatch(static_cast<short>(ready)));
  return true;
}

/// The number of free frames of the pool, found by acquiring them all.
std::size_t free_frames(Pool& pool) {
  std::vector<Frame> all;
  for (auto frame = pool.acquire(); frame; frame = pool.acquire()) all.push_back(std::move(*frame));
  return all.size();
}

/// Accepts a frame while none waits, and submits it.
void show(Output& output, Frame frame) {
  EXPECT_FALSE(must(output.accept(std::move(frame)), "accept")) << "nothing is displaced";
  must(output.flush(), "flush");
}

TEST_P(V4l2Output, ShowsEveryFrameInOrderAndGivesItBack) {
  const LeakCheck leaks;
  auto output = open();
  must(output->set_input(stream()), "set_input");
  auto pool = must(Pool::create(heap_buffers(stream(), 5)));
  const auto buffers = buffers_of(pool, 5);
  must(output->start(buffers), "start");
  EXPECT_EQ(output->poll_events(), 0) << "nothing queued";
  std::vector<std::uint64_t> shown;
  std::uint64_t next = 0;
  while (shown.size() < 29) {  // the device may keep the last one until another arrives
    while (next < 30 && output->ready()) show(*output, numbered(pool, next++));
    EXPECT_GE(free_frames(pool) + output->max_held(), 5U);
    Presentation reports[8];
    const std::size_t count = output->take_presented(reports);
    for (std::size_t i = 0; i < count; ++i) {
      shown.push_back(reports[i].sequence);
      EXPECT_GT(reports[i].presented, 0ns);
    }
    if (count == 0) {
      ASSERT_TRUE(turn(*output)) << shown.size() << " shown";
    }
  }
  for (std::size_t i = 0; i < shown.size(); ++i) EXPECT_EQ(shown[i], i);
  must(output->drain(Deadline::after(20s)));
  must(output->stop());
  must(output->stop(), "a second stop");
  EXPECT_EQ(free_frames(pool), 5U);
}

TEST_P(V4l2Output, AWaitingFrameIsDisplacedByTheNext) {
  auto output = open({.output = {}, .depth = 2});
  must(output->set_input(stream()));
  auto pool = must(Pool::create(heap_buffers(stream(), 6)));
  must(output->start(buffers_of(pool, 6)));
  for (std::uint64_t i = 0; i < 3; ++i) {
    show(*output, numbered(pool, i));
  }
  EXPECT_FALSE(output->ready()) << "two in the device, one waits";
  const Frame displaced = must(output->accept(numbered(pool, 3)));
  ASSERT_TRUE(displaced);
  EXPECT_EQ(displaced.info().sequence, 2U);
}

TEST_P(V4l2Output, DrainEndsWhenAllIsShown) {
  auto output = open();
  must(output->set_input(stream()));
  auto pool = must(Pool::create(heap_buffers(stream(), 4)));
  must(output->start(buffers_of(pool, 4)));
  for (std::uint64_t i = 0; i < 3; ++i) {
    show(*output, numbered(pool, i));
  }
  const auto early = output->drain(Deadline::immediate());
  Presentation reports[8];
  std::size_t shown = output->take_presented(reports);
  EXPECT_TRUE(shown == 3 || fails_with(early, ETIMEDOUT)) << "it has not waited";
  must(output->drain(Deadline::after(20s)));
  shown += output->take_presented(reports);
  observe(std::string("vivid's output, ") + (GetParam() ? "multi-planar" : "single-planar") +
              ", keeps the last frame until another comes",
          shown < 3, "docs/v4l2.md");
  EXPECT_GE(shown, 2U) << "those before the last are reported";
}

TEST_P(V4l2Output, OneQbufAndOneDqbufPerFrame) {
  auto output = open();
  must(output->set_input(stream({640, 480})));
  auto pool = must(Pool::create(heap_buffers(stream({640, 480}), 5)));
  must(output->start(buffers_of(pool, 5)));
  const CountCalls ioctls("ioctl");
  std::uint64_t next = 0;
  std::size_t shown = 0;
  while (shown < 30) {
    while (output->ready()) show(*output, numbered(pool, next++));
    ASSERT_TRUE(turn(*output));
    Presentation reports[8];
    shown += output->take_presented(reports);
  }
  EXPECT_LE(ioctls.calls(), next + shown);
}

TEST_P(V4l2Output, RestoresItsConnectorAndStartsAgain) {
  const LeakCheck leaks;
  auto output = open();
  // The name of the connector that is in use, or of the first one that is not.
  const auto connector = [&](bool is_current) {
    for (const v4l2::Port& port : must(output->outputs())) {
      if (port.is_current == is_current) return port.name;
    }
    return std::string();
  };
  const auto current = [&] { return connector(true); };
  const std::string before = current();
  const std::string other = connector(false);
  if (other.empty()) GTEST_SKIP() << "the device has one connector";
  output.reset();
  output = open({.output = other});
  EXPECT_EQ(current(), other);
  must(output->set_input(stream()));
  auto pool = must(Pool::create(heap_buffers(stream(), 4)));
  const auto buffers = buffers_of(pool, 4);
  for (int run = 0; run < 2; ++run) {
    must(output->start(buffers), "start");
    show(*output, numbered(pool, 0));
    must(output->stop());
    EXPECT_EQ(free_frames(pool), 4U);
    EXPECT_EQ(current(), before);
  }
}

TEST_P(V4l2Output, RefusesWhatItLacksWithWhatItHas) {
  auto output = open();
  StreamConfig config = stream();
  config.layout.format = formats::h264;
  const auto refused = output->check_input(config);
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_NE(refused.error().detail().find("XR24"), std::string_view::npos) << refused.error().message();
  config = stream();
  config.layout.modifier = Modifier::from_value(0x0100000000000001);
  EXPECT_TRUE(fails_with(output->check_input(config), EINVAL));
}

TEST_P(V4l2Output, AFrameOfAnotherBufferIsRefusedAndLetGo) {
  const LeakCheck leaks;
  auto output = open();
  must(output->set_input(stream()));
  auto pool = must(Pool::create(heap_buffers(stream(), 4)));
  must(output->start(buffers_of(pool, 4)));
  auto strangers = must(Pool::create(heap_buffers(stream(), 1)));
  EXPECT_TRUE(fails_with(output->accept(numbered(strangers, 0)), EINVAL));
  EXPECT_EQ(free_frames(strangers), 1U);
}

TEST_P(V4l2Output, DestroyedWhileItHoldsFramesItGivesThemBack) {
  const LeakCheck leaks;
  auto output = open();
  must(output->set_input(stream()));
  auto pool = must(Pool::create(heap_buffers(stream(), 4)));
  must(output->start(buffers_of(pool, 4)));
  show(*output, numbered(pool, 0));
  EXPECT_EQ(free_frames(pool), 3U);
  output.reset();
  EXPECT_EQ(free_frames(pool), 4U);
}

TEST(V4l2Loop, TheCamerasOwnBuffersGoToTheOutput) {
  const LeakCheck leaks;
  auto camera = must(v4l2::Camera::open(vivid(Kind::capture, false)));
  auto output = must(Output::open(vivid(Kind::output, true)));
  set_input(*camera, {640, 480}, formats::xrgb8888);
  must(output->set_input(camera->output()));
  const auto buffers = own_buffers(*camera, 7);
  must(output->start(buffers));
  must(camera->start(buffers));
  std::size_t shown = 0;
  for (int i = 0; i < 120 && shown < 10; ++i) {
    const Frame displaced = must(output->accept(capture_one(*camera)));
    must(output->flush());
    must(output->dispatch(POLLOUT));
    Presentation reports[8];
    shown += output->take_presented(reports);
  }
  EXPECT_EQ(shown, 10U);
}

}  // namespace
}  // namespace dmaflow::test
