// v4l2::Camera against real kernel cameras (vivid, in the lab): streaming.
#include "v4l2_support.hpp"

#include <dmaflow/cpu_access.hpp>

#include <algorithm>
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

/// Looks at what each QBUF carries.
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

TEST_P(V4l2Camera, StreamsIntoItsOwnBuffers) {
  const LeakCheck leaks;
  auto camera = open();
  configure(*camera, {1280, 720}, formats::xrgb8888);
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
  configure(*camera, {1280, 720}, formats::xrgb8888);
  const auto buffers = heap_buffers(camera->output(), 4);
  must(camera->try_output(buffers[0]), "try_output");
  must(camera->start(buffers), "start");
  EXPECT_EQ(capture(*camera, 20).size(), 20U);
  must(camera->stop());
}

TEST_P(V4l2Camera, FramesSayWhenAndWhichAndWhat) {
  auto camera = open();
  configure(*camera, {1280, 720}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  const auto before = std::chrono::steady_clock::now().time_since_epoch();
  const auto frames = capture(*camera, 10);
  const auto after = std::chrono::steady_clock::now().time_since_epoch();
  ASSERT_EQ(frames.size(), 10U);
  EXPECT_GT(frames.back().sequence, frames.front().sequence);
  for (std::size_t i = 0; i < frames.size(); ++i) {
    EXPECT_EQ(frames[i].clock, FrameInfo::Clock::monotonic);
    EXPECT_EQ(frames[i].visible, (Rect{0, 0, 1280, 720}));
    EXPECT_EQ(frames[i].bytes_used[0], 1280U * 720 * 4);
    EXPECT_FALSE(frames[i].is_erroneous);
    EXPECT_EQ(frames[i].color, camera->output().color);
    if (i == 0) continue;
    EXPECT_GE(frames[i].sequence, frames[i - 1].sequence);
    EXPECT_GT(frames[i].timestamp, frames[i - 1].timestamp);
    EXPECT_GT(frames[i].timestamp, before - 1s);
    EXPECT_LT(frames[i].timestamp, after + 1s);  // vivid's can be some milliseconds ahead
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
  must(camera->set_output(config));
  EXPECT_EQ(camera->output().layout.planes[0].stride, 5120U + 256);
  EXPECT_EQ(camera->output().constraints.min_stride[0], 5120U + 256);
  EXPECT_GE(camera->output().constraints.min_object_size[0], std::uint64_t{5120 + 256} * 720);
  must(camera->start(heap_buffers(camera->output(), 4)));
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST_P(V4l2Camera, PlanesInOneBufferFollowEachOther) {
  auto camera = open();
  configure(*camera, {640, 480}, formats::nv12);
  const Layout& nv12 = camera->output().layout;
  ASSERT_EQ(nv12.plane_count, 2U);
  EXPECT_EQ(nv12.planes[0], (Plane{0, 0, 640}));
  EXPECT_EQ(nv12.planes[1], (Plane{0, 640 * 480, 640}));
  EXPECT_EQ(camera->output().constraints.min_object_size[0], 640U * 480 * 3 / 2);
  configure(*camera, {640, 480}, formats::yuv420);
  const Layout& yuv420 = camera->output().layout;
  ASSERT_EQ(yuv420.plane_count, 3U);
  EXPECT_EQ(yuv420.planes[1], (Plane{0, 640 * 480, 320}));
  EXPECT_EQ(yuv420.planes[2], (Plane{0, 640 * 480 + 320 * 240, 320}));
  must(camera->start(own_buffers(*camera, 4)));
  EXPECT_EQ(capture(*camera, 3).size(), 3U);
}

TEST(V4l2Multiplanar, SeparatePlanesAreSeparateDmaBufs) {
  const LeakCheck leaks;
  auto camera = must(v4l2::Camera::open(vivid(Kind::capture, true)));
  configure(*camera, {640, 480}, formats::nv12, true);
  const StreamConfig& config = camera->output();
  EXPECT_TRUE(config.constraints.separate_objects);
  EXPECT_EQ(config.layout.planes[1], (Plane{1, 0, 640}));
  EXPECT_EQ(config.constraints.min_object_size[1], 640U * 240);
  for (const bool own : {true, false}) {
    const auto buffers = own ? own_buffers(*camera, 4) : heap_buffers(config, 4);
    EXPECT_EQ(buffers[0].object_count(), 2U);
    must(camera->start(buffers), "start");
    const auto frames = capture(*camera, 3);
    ASSERT_EQ(frames.size(), 3U);
    EXPECT_EQ(frames[0].bytes_used[0], 640U * 480);
    EXPECT_EQ(frames[0].bytes_used[1], 640U * 240);
    must(camera->stop());
  }
}

TEST(V4l2Multiplanar, SeparatePlanesInOneDmaBufAreRefused) {
  auto camera = must(v4l2::Camera::open(vivid(Kind::capture, true)));
  configure(*camera, {640, 480}, formats::nv12, true);
  Layout layout = camera->output().layout;
  layout.planes[1].object = 0;
  Fd object = heap_dma_buf(640 * 480 * 2);
  const Buffer buffer = must(Buffer::create(layout, object, {}));
  EXPECT_TRUE(fails_with(camera->try_output(buffer), EINVAL));
}

TEST_P(V4l2Camera, AFrameCostsTwoCallsAndNeverAnotherMapping) {
  auto camera = open();
  configure(*camera, {640, 480}, formats::xrgb8888);
  for (const bool own : {true, false}) {
    const auto buffers = own ? own_buffers(*camera, 4) : heap_buffers(camera->output(), 4);
    must(camera->start(buffers));
    const CountCalls ioctls("ioctl");
    std::size_t frames = 0;
    while (frames < 60 && turn(*camera)) {
      if (must(camera->take())) ++frames;
      EXPECT_FALSE(must(camera->take())) << "a second frame without POLLIN";
    }
    must(camera->dispatch(0));  // the last one's QBUF
    EXPECT_EQ(frames, 60U);
    EXPECT_EQ(ioctls.calls(), 120U) << "DQBUF and QBUF";
    must(camera->stop());
  }
}

TEST_P(V4l2Camera, ASlotAlwaysCarriesTheSameDmaBuf) {
  auto camera = open();
  configure(*camera, {640, 480}, formats::xrgb8888);
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
  configure(*camera, {640, 480}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  const Frame held = capture_one(*camera);
  for (int i = 0; i < 20; ++i) EXPECT_NE(capture_one(*camera).index(), held.index());
}

TEST_P(V4l2Camera, WithNothingQueuedThereAreOnlyEventsToWaitFor) {
  auto camera = open();
  configure(*camera, {640, 480}, formats::xrgb8888);
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
    configure(*camera, {640, 480}, formats::xrgb8888);
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
      std::thread([moved = std::move(*frame)] {}).join();  // ends in any thread
    }
  }
}

TEST_P(V4l2Camera, ABufferHeldSinceTheLastRunIsNotQueuedAgain) {
  const LeakCheck leaks;
  auto camera = open();
  configure(*camera, {640, 480}, formats::xrgb8888);
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
    configure(*camera, size, formats::xrgb8888);
    must(camera->start(own_buffers(*camera, 4)), "start");
    EXPECT_EQ(capture_one(*camera).buffer().layout().size, size);
    must(camera->stop());
  }
}

TEST_P(V4l2Camera, ItsOwnBuffersOfAnEarlierRunStillServe) {
  auto camera = open();
  configure(*camera, {640, 480}, formats::xrgb8888);
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
  configure(*camera, {640, 480}, formats::xrgb8888);
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
  configure(*camera, {640, 480}, formats::xrgb8888);
  must(camera->try_output(heap_buffer(camera->output())));
  must(camera->try_output(own_buffers(*camera, 2).front()));
  must(camera->try_output(heap_buffer(camera->output())), "after own ones");
  configure(*other, {1280, 720}, formats::xrgb8888);  // EBUSY, had it kept slots
}

TEST_P(V4l2Camera, ABufferLaidOutDifferentlyIsRefusedWithBothNumbers) {
  auto camera = open();
  configure(*camera, {640, 480}, formats::xrgb8888);
  StreamConfig other = camera->output();
  other.layout.planes[0].stride = 4096;
  other.constraints.min_object_size[0] = 4096 * 480;
  const auto refused = camera->try_output(heap_buffer(other));
  ASSERT_TRUE(fails_with(refused, EINVAL));
  EXPECT_NE(refused.error().detail().find("4096"), std::string_view::npos) << refused.error().message();
  EXPECT_NE(refused.error().detail().find("2560"), std::string_view::npos) << refused.error().message();
}

TEST_P(V4l2Camera, SequencesGoOnOverTheWrapOf32Bits) {
  auto camera = open();
  must(camera->set_control("Wrap Sequence Number", 1));  // vivid then begins just before the wrap
  configure(*camera, {320, 180}, formats::xrgb8888);
  must(camera->start(own_buffers(*camera, 4)));
  const auto frames = capture(*camera, 200);
  must(camera->set_control("Wrap Sequence Number", 0));
  ASSERT_EQ(frames.size(), 200U);
  EXPECT_GT(frames.back().sequence, 0xffffffffULL);
  // vivid counts in jiffies, and at 60/s sometimes gives a number twice
  for (std::size_t i = 1; i < frames.size(); ++i) EXPECT_GE(frames[i].sequence, frames[i - 1].sequence);
  EXPECT_LT(frames.back().sequence - frames.front().sequence, 1000U);
}

TEST(V4l2Contiguous, RefusesAHeapsScatteredBufferAndSaysWhatWouldHelp) {
  const LeakCheck leaks;
  for (const bool multiplanar : {false, true}) {
    auto camera = must(v4l2::Camera::open(vivid(Kind::capture, multiplanar, 1)));  // the lab's third and fourth camera
    configure(*camera, {640, 480}, formats::xrgb8888);
    const auto buffers = heap_buffers(camera->output(), 4);
    const auto refused = camera->try_output(buffers[0]);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().operation(), "VIDIOC_QBUF");
    EXPECT_NE(refused.error().detail().find("contiguous"), std::string_view::npos) << refused.error().message();
    EXPECT_NE(refused.error().detail().find("heap:system"), std::string_view::npos) << refused.error().message();
    const auto started = camera->start(buffers);
    ASSERT_FALSE(started);
    EXPECT_EQ(camera->holds(), nullptr);
    must(camera->start(own_buffers(*camera, 4)), "its own are fine");
    EXPECT_EQ(capture(*camera, 3).size(), 3U);
  }
}

}  // namespace
}  // namespace dmaflow::test
