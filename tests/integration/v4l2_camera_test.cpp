// v4l2::Camera against real kernel cameras (vivid, in the lab): streaming.
#include "v4l2_support.hpp"

#include <dmaflow/cpu_access.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <thread>

#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;

class V4l2Camera : public ::testing::TestWithParam<bool> {
 protected:
  [[nodiscard]] static bool multiplanar() { return GetParam(); }
  static std::unique_ptr<v4l2::Camera> open(const v4l2::Camera::Options& options = {}) {
    return must(v4l2::Camera::open(vivid(Kind::capture, multiplanar()), options), "open");
  }
};
INSTANTIATE_TEST_SUITE_P(Api, V4l2Camera, ::testing::Values(false, true),
                         [](const auto& test) { return test.param ? "multiplanar" : "singleplanar"; });

/// Records the dma-buf of each QBUF.
class PairingWatch : public CountCalls {
 public:
  explicit PairingWatch(bool multiplanar) : multiplanar_(multiplanar) {}
  int before(const sys::Call& call) noexcept override {
    if (call.request == VIDIOC_QBUF) look(*static_cast<const v4l2_buffer*>(call.argument));
    return CountCalls::before(call);
  }
  std::map<std::uint32_t, std::set<std::pair<int, ino_t>>> seen;  // by slot

 private:
  void look(const v4l2_buffer& buffer) {
    const int fd = buffer.memory != V4L2_MEMORY_DMABUF ? -1 : multiplanar_ ? buffer.m.planes[0].m.fd : buffer.m.fd;
    struct stat info{};
    if (fd >= 0) ::fstat(fd, &info);
    seen[buffer.index].insert({fd, info.st_ino});
  }
  bool multiplanar_;
};

/// Records the driver's answer to each DQBUF.
class DequeueWatch : public CountCalls {
 public:
  struct Answer {
    std::uint32_t sequence = 0;
    std::uint32_t flags = 0;
    std::chrono::nanoseconds timestamp{};
    std::array<std::uint32_t, VIDEO_MAX_PLANES> bytes_used{};
    [[nodiscard]] bool is_monotonic() const {
      return (flags & V4L2_BUF_FLAG_TIMESTAMP_MASK) == V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    }
  };
  explicit DequeueWatch(bool multiplanar) : multiplanar_(multiplanar) {}
  int before(const sys::Call& call) noexcept override {
    if (call.request != VIDIOC_DQBUF) return proceed;
    auto* buffer = const_cast<v4l2_buffer*>(static_cast<const v4l2_buffer*>(call.argument));
    if (::ioctl(call.fd, call.request, buffer) < 0) return errno;
    Answer answer{.sequence = buffer->sequence,
                  .flags = buffer->flags,
                  .timestamp = std::chrono::seconds(buffer->timestamp.tv_sec) +
                               std::chrono::microseconds(buffer->timestamp.tv_usec),
                  .bytes_used = {buffer->bytesused}};
    for (std::uint32_t i = 0; multiplanar_ && i < buffer->length; ++i) {
      answer.bytes_used[i] = buffer->m.planes[i].bytesused;
    }
    answers.push_back(answer);
    return pretend;
  }
  std::vector<Answer> answers;

 private:
  bool multiplanar_;
};

/// Records the stride that the last S_FMT asked for.
class StrideWatch : public CountCalls {
 public:
  explicit StrideWatch(bool multiplanar) : multiplanar_(multiplanar) {}
  int before(const sys::Call& call) noexcept override {
    if (call.request == VIDIOC_S_FMT) {
      const auto& format = static_cast<const v4l2_format*>(call.argument)->fmt;
      asked = multiplanar_ ? format.pix_mp.plane_fmt[0].bytesperline : format.pix.bytesperline;
    }
    return CountCalls::before(call);
  }
  std::uint32_t asked = 0;

 private:
  bool multiplanar_;
};

TEST_P(V4l2Camera, StreamsIntoItsOwnBuffers) {
  const LeakCheck leaks;
  auto camera = open();
  set_input(*camera, {1280, 720}, formats::xrgb8888);
  const auto buffers = own_buffers(*camera, 4);
  EXPECT_EQ(buffers[0].origin(), "camera");
  EXPECT_EQ(camera->output_allocator()->name(), "camera");
  must(camera->start(buffers), "start");
  EXPECT_EQ(capture(*camera, 20).size(), 20U);
  must(camera->stop());
}

TEST_P(V4l2Camera, StreamsIntoImportedBuffers) {
  const LeakCheck leaks;
  auto camera = open();
  set_input(*camera, {1280, 720}, formats::xrgb8888);
  const auto buffers = heap_buffers(camera->output(), 4);
  must(camera->try_output(buffers[0]), "try_output");
  must(camera->start(buffers), "start");
  EXPECT_EQ(capture(*camera, 20).size(), 20U);
  must(camera->stop());
}

TEST_P(V4l2Camera, FramesSayWhenAndWhichAndWhat) {
  auto camera = open();
  set_input(*camera, {1280, 720}, formats::xrgb8888);
  const auto before = std::chrono::steady_clock::now().time_since_epoch();
  must(camera->start(own_buffers(*camera, 4)));
  DequeueWatch driver(multiplanar());
  const auto frames = capture(*camera, 10);
  const auto after = std::chrono::steady_clock::now().time_since_epoch();
  ASSERT_EQ(frames.size(), 10U);
  ASSERT_EQ(driver.answers.size(), 10U);
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const DequeueWatch::Answer& said = driver.answers[i];
    EXPECT_EQ(frames[i].sequence, said.sequence);
    EXPECT_EQ(frames[i].clock, said.is_monotonic() ? FrameInfo::Clock::monotonic : FrameInfo::Clock::unknown);
    EXPECT_EQ(frames[i].visible, (Rect{0, 0, 1280, 720}));
    EXPECT_EQ(frames[i].bytes_used[0], said.bytes_used[0]);
    EXPECT_EQ(frames[i].is_erroneous, (said.flags & V4L2_BUF_FLAG_ERROR) != 0);
    EXPECT_EQ(frames[i].color, camera->output().color);
    if (said.is_monotonic() && said.timestamp > frames[i].timestamp) {
      EXPECT_GE(frames[i].timestamp, before) << "a stamp in the future becomes the time at which the frame was taken";
      EXPECT_LE(frames[i].timestamp, after);
    } else {
      EXPECT_EQ(frames[i].timestamp, said.timestamp);
    }
  }
}

TEST_P(V4l2Camera, TheStrideAskedForIsTheDrivers) {
  const LeakCheck leaks;
  auto camera = open();
  StreamRequest request;
  request.size = Size{1280, 720};
  request.formats = {formats::xrgb8888};
  StreamConfig config = must(camera->offers(request)).front();
  config.layout.planes[0].stride = 5120 + 256;
  {
    StrideWatch watch(multiplanar());
    must(camera->set_output(config));
    EXPECT_EQ(watch.asked, 5120U + 256);
  }
  const v4l2_format set = raw_format(camera->info().path, multiplanar());
  const std::uint32_t stride = multiplanar() ? set.fmt.pix_mp.plane_fmt[0].bytesperline : set.fmt.pix.bytesperline;
  observe(std::string("vivid, ") + (multiplanar() ? "multi-planar" : "single-planar") + ", takes a longer stride",
          stride == 5120 + 256);
  EXPECT_EQ(camera->output().layout.planes[0].stride, stride);
  EXPECT_EQ(camera->output().constraints.min_stride[0], stride);
  EXPECT_GE(camera->output().constraints.min_object_size[0], std::uint64_t{stride} * 720);
  must(camera->start(heap_buffers(camera->output(), 4)));
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST_P(V4l2Camera, PlanesInOneBufferFollowEachOther) {
  auto camera = open();
  set_input(*camera, {640, 480}, formats::nv12);
  const Layout& nv12 = camera->output().layout;
  ASSERT_EQ(nv12.plane_count, 2U);
  const std::uint32_t stride = nv12.planes[0].stride;
  EXPECT_GE(stride, 640U);
  EXPECT_EQ(nv12.planes[0], (PlaneLayout{0, 0, stride}));
  EXPECT_EQ(nv12.planes[1], (PlaneLayout{0, stride * 480, stride}));
  EXPECT_GE(camera->output().constraints.min_object_size[0], std::uint64_t{stride} * 480 * 3 / 2);
  set_input(*camera, {640, 480}, formats::yuv420);
  const Layout& yuv420 = camera->output().layout;
  ASSERT_EQ(yuv420.plane_count, 3U);
  const std::uint32_t luma = yuv420.planes[0].stride;
  EXPECT_EQ(yuv420.planes[1], (PlaneLayout{0, luma * 480, luma / 2}));
  EXPECT_EQ(yuv420.planes[2], (PlaneLayout{0, luma * 480 + luma / 2 * 240, luma / 2}));
  must(camera->start(own_buffers(*camera, 4)));
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST(V4l2Multiplanar, SeparatePlanesAreSeparateDmaBufs) {
  const LeakCheck leaks;
  auto camera = must(v4l2::Camera::open(vivid(Kind::capture, true)));
  set_input(*camera, {640, 480}, formats::nv12, true);
  const StreamConfig& config = camera->output();
  EXPECT_TRUE(config.constraints.separate_objects);
  const std::uint32_t stride = config.layout.planes[1].stride;
  EXPECT_GE(stride, 640U);
  EXPECT_EQ(config.layout.planes[1], (PlaneLayout{1, 0, stride}));
  EXPECT_GE(config.constraints.min_object_size[1], std::uint64_t{stride} * 240);
  for (const bool own : {true, false}) {
    const auto buffers = own ? own_buffers(*camera, 4) : heap_buffers(config, 4);
    EXPECT_EQ(buffers[0].object_count(), 2U);
    must(camera->start(buffers), "start");
    DequeueWatch driver(true);
    const auto frames = capture(*camera, 3);
    ASSERT_EQ(frames.size(), 3U);
    for (const std::size_t plane : {0U, 1U}) {
      EXPECT_GT(frames[0].bytes_used[plane], 0U);
      EXPECT_EQ(frames[0].bytes_used[plane], driver.answers.at(0).bytes_used[plane]);
    }
    must(camera->stop());
  }
}

TEST(V4l2Multiplanar, SeparatePlanesInOneDmaBufAreRefused) {
  auto camera = must(v4l2::Camera::open(vivid(Kind::capture, true)));
  set_input(*camera, {640, 480}, formats::nv12, true);
  Layout layout = camera->output().layout;
  layout.planes[1].object = 0;
  Fd object = heap_dma_buf(640 * 480 * 2);
  const Buffer buffer = must(Buffer::create(layout, object, {}));
  EXPECT_TRUE(fails_with(camera->try_output(buffer), EINVAL));
}

TEST_P(V4l2Camera, AFrameCostsTwoCallsAndNeverAnotherMapping) {
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  for (const bool own : {true, false}) {
    const auto buffers = own ? own_buffers(*camera, 4) : heap_buffers(camera->output(), 4);
    must(camera->start(buffers));
    const CountCalls ioctls("ioctl");
    std::size_t frames = 0;
    while (frames < 60 && turn(*camera)) {
      if (must(camera->take())) ++frames;
      EXPECT_FALSE(must(camera->take())) << "a second frame without POLLIN";
    }
    must(camera->dispatch(0));  // the last frame's QBUF
    EXPECT_EQ(frames, 60U);
    EXPECT_EQ(ioctls.calls(), 120U) << "DQBUF and QBUF";
    must(camera->stop());
  }
}

TEST_P(V4l2Camera, ASlotAlwaysCarriesTheSameDmaBuf) {
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  const auto buffers = heap_buffers(camera->output(), 4);
  PairingWatch watch(multiplanar());
  must(camera->start(buffers));
  std::vector<Frame> held;  // returned in another order than taken
  for (int i = 0; i < 30; ++i) {
    held.push_back(capture_one(*camera));
    if (held.size() == 3) held.erase(held.begin() + i % 3);
  }
  ASSERT_EQ(watch.seen.size(), 4U);
  std::set<ino_t> inodes;
  for (const auto& [slot, carried] : watch.seen) {
    ASSERT_EQ(carried.size(), 1U) << "slot " << slot;
    inodes.insert(carried.begin()->second);
    EXPECT_EQ(carried.begin()->second, buffers[slot].id(0).inode);
  }
  EXPECT_EQ(inodes.size(), 4U);
}

TEST_P(V4l2Camera, AHeldBufferIsNotWritten) {
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  const Frame held = capture_one(*camera);
  for (int i = 0; i < 20; ++i) EXPECT_NE(capture_one(*camera).index(), held.index());
}

TEST_P(V4l2Camera, WithNothingQueuedThereAreOnlyEventsToWaitFor) {
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  const auto buffers = own_buffers(*camera, 4);
  EXPECT_EQ(camera->poll_events(), 0) << "before start";
  must(camera->start(buffers));
  EXPECT_NE(camera->poll_events() & POLLIN, 0);
  std::vector<Frame> held;
  while (held.size() < 4) held.push_back(capture_one(*camera));
  EXPECT_EQ(camera->poll_events(), POLLPRI);
  EXPECT_EQ(sys::wait(camera->poll_fd(), camera->poll_events(), Deadline::after(50ms)), 0) << "POLLERR: it would spin";
  EXPECT_FALSE(must(camera->take()));
  held.pop_back();
  must(camera->dispatch(0));
  EXPECT_NE(camera->poll_events() & POLLIN, 0);
  EXPECT_TRUE(capture_one(*camera));
}

TEST_P(V4l2Camera, FramesOutliveStopAndCamera) {
  const LeakCheck leaks;
  for (const bool own : {true, false}) {
    auto camera = open();
    set_input(*camera, {640, 480}, formats::xrgb8888);
    must(camera->start(own ? own_buffers(*camera, 4) : heap_buffers(camera->output(), 4)));
    Frame of_stopped = capture_one(*camera);
    must(camera->stop());
    must(camera->stop(), "a second stop");
    EXPECT_EQ(camera->holds(), nullptr);
    must(camera->start(own ? own_buffers(*camera, 4) : heap_buffers(camera->output(), 4)), "start again");
    Frame of_destroyed = capture_one(*camera);
    camera.reset();
    for (Frame* frame : {&of_stopped, &of_destroyed}) {
      const auto access = must(CpuAccess::begin(frame->buffer(), CpuAccess::Mode::read, Deadline::after(1s)));
      EXPECT_NE(static_cast<unsigned>(access.plane(0)[2]), 0U) << "the first bar is grey, not black";
      std::thread([moved = std::move(*frame)] {}).join();  // destroyed in another thread
    }
  }
}

TEST_P(V4l2Camera, ABufferHeldSinceTheLastRunIsNotQueuedAgain) {
  const LeakCheck leaks;
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  const auto buffers = own_buffers(*camera, 4);
  must(camera->start(buffers));
  Frame held = capture_one(*camera);
  must(camera->stop());
  EXPECT_TRUE(fails_with(camera->start(buffers), EBUSY));
  held.release();
  must(camera->start(buffers), "start");
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST_P(V4l2Camera, RestartsWithAnotherSize) {
  const LeakCheck leaks;
  auto camera = open();
  for (const Size size : {Size{640, 480}, Size{1280, 720}, Size{320, 180}}) {
    set_input(*camera, size, formats::xrgb8888);
    must(camera->start(own_buffers(*camera, 4)), "start");
    EXPECT_EQ(capture_one(*camera).buffer().layout().size, size);
    must(camera->stop());
  }
}

TEST_P(V4l2Camera, ItsOwnBuffersOfAnEarlierRunStillServe) {
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  const auto buffers = own_buffers(*camera, 4);
  for (int run = 0; run < 3; ++run) {
    must(camera->start(buffers), "start");
    EXPECT_EQ(capture(*camera, 3).size(), 3U);
    must(camera->stop());
  }
}

TEST_P(V4l2Camera, AllocatesMoreWhileTheFirstLive) {
  const LeakCheck leaks;
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  auto buffers = own_buffers(*camera, 2);
  const CountCalls created("ioctl", VIDIOC_CREATE_BUFS);
  for (Buffer& more : own_buffers(*camera, 3)) buffers.push_back(more);
  EXPECT_EQ(created.calls(), 1U);
  must(camera->start(buffers), "start");
  std::set<std::uint32_t> used;
  for (int i = 0; i < 40 && used.size() < 5; ++i) used.insert(capture_one(*camera).index());
  EXPECT_EQ(used.size(), 5U) << "every buffer is filled";
}

TEST_P(V4l2Camera, TryingABufferLeavesNothingBehind) {
  const LeakCheck leaks;
  auto camera = open();
  auto other = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  must(camera->try_output(heap_buffer(camera->output())));
  must(camera->try_output(own_buffers(*camera, 2).front()));
  must(camera->try_output(heap_buffer(camera->output())), "after own ones");
  set_input(*other, {1280, 720}, formats::xrgb8888);  // would fail with EBUSY if the first had kept slots
}

TEST_P(V4l2Camera, ABufferLaidOutDifferentlyIsRefusedWithBothNumbers) {
  auto camera = open();
  set_input(*camera, {640, 480}, formats::xrgb8888);
  StreamConfig other = camera->output();
  other.layout.planes[0].stride = 4096;
  other.constraints.min_object_size[0] = 4096 * 480;
  const auto refused = camera->try_output(heap_buffer(other));
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_NE(refused.error().detail().find("4096"), std::string_view::npos) << refused.error().message();
  const std::string stride = std::to_string(camera->output().layout.planes[0].stride);
  EXPECT_NE(refused.error().detail().find(stride), std::string_view::npos) << refused.error().message();
}

TEST_P(V4l2Camera, SequencesGoOnOverTheWrapOf32Bits) {
  auto camera = open();
  must(camera->set_control("Wrap Sequence Number", 1));  // vivid then starts just before the wrap-around
  set_input(*camera, {320, 180}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  DequeueWatch driver(multiplanar());
  const auto frames = capture(*camera, 200);
  must(camera->set_control("Wrap Sequence Number", 0));
  ASSERT_EQ(frames.size(), 200U);
  ASSERT_EQ(driver.answers.size(), 200U);
  if (driver.answers.back().sequence >= driver.answers.front().sequence) {
    GTEST_SKIP() << "the driver's count did not wrap within 200 frames";
  }
  EXPECT_EQ(frames.front().sequence, driver.answers.front().sequence);
  for (std::size_t i = 1; i < frames.size(); ++i) {
    const std::uint32_t step = driver.answers[i].sequence - driver.answers[i - 1].sequence;
    const auto moved = static_cast<std::int64_t>(frames[i].sequence - frames[i - 1].sequence);
    EXPECT_EQ(moved, static_cast<std::int32_t>(step)) << "frame " << i;
  }
  EXPECT_GT(frames.back().sequence, 0xffffffffULL);
}

/// The error of a camera that refuses a buffer of the system heap.
void expect_explained(const Error& error, const std::string& path) {
  EXPECT_EQ(error.operation(), "VIDIOC_QBUF");
  EXPECT_NE(error.device().find(path), std::string_view::npos) << error.message();
  EXPECT_NE(error.detail().find("contiguous"), std::string_view::npos) << error.message();
  EXPECT_NE(error.detail().find("heap:system"), std::string_view::npos) << error.message();
}

// The lab's third and fourth camera are loaded with allocators=1, so they need physically contiguous memory. The system
// heap's memory is scattered.
TEST(V4l2Contiguous, AHeapsBufferIsRefusedWithWhatWouldHelpOrFilled) {
  const LeakCheck leaks;
  for (const bool multiplanar : {false, true}) {
    const std::string path = vivid(Kind::capture, multiplanar, 1);
    auto camera = must(v4l2::Camera::open(path));
    set_input(*camera, {640, 480}, formats::xrgb8888);
    const auto buffers = heap_buffers(camera->output(), 4);
    const auto tried = camera->try_output(buffers[0]);
    observe(std::string("a vivid with contiguous DMA, ") + (multiplanar ? "multi-planar" : "single-planar") +
                ", takes a scattered buffer",
            tried ? "yes" : outcome(tried.error()), "docs/v4l2.md");
    const auto started = camera->start(buffers);
    if (!tried) {
      expect_explained(tried.error(), path);
      EXPECT_FALSE(started) << "try_output() refused one of these buffers";
    }
    if (started) {
      EXPECT_EQ(capture(*camera, 3).size(), 3U);
      must(camera->stop());
    } else {
      expect_explained(started.error(), path);
    }
    EXPECT_EQ(camera->holds(), nullptr);
    must(camera->start(own_buffers(*camera, 4)), "its own are fine");
    EXPECT_EQ(capture(*camera, 3).size(), 3U);
  }
}

}  // namespace
}  // namespace dmaflow::test
