// Changes that an app makes to a running pipeline, on real drivers: branches are added and removed while a camera
// streams to its display, and buffers of other libraries are added and removed while they are shown, output and
// converted.
#include "screens.hpp"
#include "v4l2_support.hpp"
#include "vulkan_support.hpp"

#include <dmaflow/dmabuf_source.hpp>
#include <dmaflow/function_sink.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/vulkan_convert.hpp>

#include <drm.h>
#include <linux/videodev2.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;

/// Steps until the condition is true, for at most half a minute.
template <typename Condition>
::testing::AssertionResult step_until(Pipeline& pipeline, Condition is_true) {
  const auto end = Deadline::after(30s);
  while (!is_true()) {
    const auto stepped = pipeline.step(end);
    if (!stepped) return ::testing::AssertionFailure() << stepped.error().message();
    if (!*stepped) return ::testing::AssertionFailure() << "it stood still";
  }
  return ::testing::AssertionSuccess();
}

// --- Branches

TEST(Changes, ARecorderComesAndGoesBesideACameraOnItsDisplay) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  const LeakCheck leaks;
  for (const std::string& driver : shared_screens()) {
    const auto camera = must(v4l2::Camera::open("/dev/video0"));
    const auto card = must(kms::Device::open(card_path(driver)));
    kms::Plane* const screen = must(must(card->output())->plane());
    std::vector<std::uint64_t> recorded;
    const auto recorder = must(FunctionSink::create([&](const Frame& frame) -> Result<void> {
      recorded.push_back(frame.info().sequence);
      return {};
    }));
    Pipeline pipeline;
    must(pipeline.connect(*camera, *screen));
    must(pipeline.prepare({.size = Size{640, 480}, .spare_buffers = 6}));
    must(pipeline.start());
    const StreamStats& stream = pipeline.stats().streams[0];
    const auto shown = [&] { return stream.branches[0].presented; };
    EXPECT_TRUE(step_until(pipeline, [&] { return shown() >= 5; }));

    must(pipeline.connect(*camera, *recorder, "recorder", {.policy = Policy::drop_when_full}));
    EXPECT_TRUE(step_until(pipeline, [&] { return recorded.size() >= 10; }));
    must(pipeline.pause(*recorder));
    const auto before = recorded.size();
    const auto shown_before = shown();
    EXPECT_TRUE(step_until(pipeline, [&] { return shown() >= shown_before + 5; }));
    EXPECT_EQ(recorded.size(), before);
    must(pipeline.resume(*recorder));
    EXPECT_TRUE(step_until(pipeline, [&] { return recorded.size() >= before + 3; }));
    must(pipeline.remove(*recorder, Deadline::after(1s)));
    const auto shown_at_the_end = shown();
    EXPECT_TRUE(step_until(pipeline, [&] { return shown() >= shown_at_the_end + 5; }));

    EXPECT_EQ(stream.renegotiations, 0U) << "the camera was never stopped";
    ASSERT_EQ(stream.removed.size(), 1U);
    EXPECT_EQ(stream.removed[0].delivered, recorded.size());
    must(pipeline.stop(Deadline::after(5s)));
    EXPECT_EQ(stream.branches[0].captured(), stream.captured);
  }
}

TEST(Changes, ACamerasSizeChangesWhileAnotherStreams) {
  if (!in_lab()) GTEST_SKIP() << "streams vivid";
  const LeakCheck leaks;
  const auto counter = [](std::uint64_t& count) {
    return must(FunctionSink::create([&count](const Frame&) -> Result<void> {
      ++count;
      return {};
    }));
  };
  const auto changed = must(v4l2::Camera::open(vivid(Kind::capture, false)));
  const auto other = must(v4l2::Camera::open(vivid(Kind::capture, true)));
  std::uint64_t changed_frames = 0;
  std::uint64_t other_frames = 0;
  const auto changed_sink = counter(changed_frames);
  const auto other_sink = counter(other_frames);
  const auto heap = system_heap();
  Pipeline pipeline;
  pipeline.offer(*heap);
  must(pipeline.connect(*changed, *changed_sink, "changed"));
  must(pipeline.connect(*other, *other_sink, "other"));
  must(pipeline.prepare({.size = Size{640, 480}}));
  must(pipeline.start());
  EXPECT_TRUE(step_until(pipeline, [&] { return changed_frames >= 3 && other_frames >= 3; }));
  must(pipeline.reconfigure(*changed, {.size = Size{1280, 720}}, Deadline::after(2s)));
  EXPECT_EQ(changed->output().layout.size, (Size{1280, 720}));
  const auto before = changed_frames;
  const auto other_before = other_frames;
  EXPECT_TRUE(step_until(pipeline, [&] { return changed_frames >= before + 3 && other_frames >= other_before + 3; }));
  EXPECT_EQ(pipeline.stats().streams[1].renegotiations, 0U);
  must(pipeline.stop(Deadline::after(5s)));
}

// --- Buffers of other libraries

/// A stream in buffers that are added one by one, as a decoder does.
class Foreign {
 public:
  explicit Foreign(PixelFormat format = formats::xrgb8888, Size size = {640, 480}) : format_(format), size_(size) {
    DmaBufSourceOptions options{.name = "decoder"};
    options.released = [this](const Buffer&, const FrameInfo&, std::span<const Fence>) { ++released; };
    Buffer sample = make();
    StreamConfig config;
    config.layout = sample.layout();
    source = must(DmaBufSource::create(config, {std::move(sample)}, std::move(options)));
  }
  [[nodiscard]] Buffer make() {
    return must(heap_->allocate({.size = size_, .format = format_, .constraints = {.stride_alignment = 64}})).front();
  }
  /// Pushes frames in each buffer in turn, and waits until each frame is delivered.
  void show(Pipeline& pipeline, std::span<const Buffer> buffers, std::uint64_t count) {
    const BranchStats& branch = pipeline.stats().streams[0].branches[0];
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto before = branch.delivered;
      must(source->push(buffers[i % buffers.size()]));
      ASSERT_TRUE(step_until(pipeline, [&] { return branch.delivered > before; }));
    }
  }

  std::unique_ptr<DmaBufSource> source;
  std::uint64_t released = 0;

 private:
  PixelFormat format_;
  Size size_;
  std::unique_ptr<heap::Allocator> heap_ = system_heap();
};

TEST(Changes, BuffersThatComeLaterAreImportedOnceByTheDisplayAndGivenBack) {
  if (!in_lab()) GTEST_SKIP() << "shows on vkms";
  const LeakCheck leaks;
  Foreign decoder;
  const auto card = must(kms::Device::open(card_path("vkms")));
  kms::Plane* const screen = must(must(card->output())->plane());
  Pipeline pipeline;
  must(pipeline.connect(*decoder.source, *screen, "screen", {.policy = Policy::wait_when_full}));
  must(pipeline.prepare());
  must(pipeline.start());
  const std::vector<Buffer> buffers{decoder.make(), decoder.make(), decoder.make()};
  const CountCalls imports("ioctl", DRM_IOCTL_PRIME_FD_TO_HANDLE);
  decoder.show(pipeline, buffers, 12);
  EXPECT_EQ(imports.calls(), 3U);
  for (const Buffer& buffer : buffers) decoder.source->forget(buffer);
  must(pipeline.stop(Deadline::after(5s)));
  EXPECT_EQ(decoder.released, 12U);
  EXPECT_EQ(pipeline.stats().streams[0].branches[0].presented, 12U);
}

TEST(Changes, BuffersThatComeLaterAndLeaveAreOutputByV4l2) {
  if (!in_lab()) GTEST_SKIP() << "outputs to vivid";
  const LeakCheck leaks;
  for (const bool multiplanar : {false, true}) {
    Foreign decoder;
    const auto output = must(v4l2::Output::open(vivid(Kind::output, multiplanar)));
    Pipeline pipeline;
    must(pipeline.connect(*decoder.source, *output, "output", {.policy = Policy::wait_when_full}));
    must(pipeline.prepare());
    must(pipeline.start());
    for (int generation = 0; generation < 3; ++generation) {  // each generation takes the slots of the one before
      const std::vector<Buffer> buffers{decoder.make(), decoder.make(), decoder.make(), decoder.make()};
      decoder.show(pipeline, buffers, 8);
      for (const Buffer& buffer : buffers) decoder.source->forget(buffer);
    }
    must(pipeline.stop(Deadline::after(5s)));
    EXPECT_EQ(decoder.released, 24U);
    EXPECT_EQ(pipeline.stats().streams[0].branches[0].delivered, 24U);
  }
}

TEST(Changes, BuffersThatComeLaterAndLeaveAreConvertedByTheGpu) {
  if (!in_lab()) GTEST_SKIP() << "shows on vkms";
  const LeakCheck leaks;
  const Validation validation;
  Foreign decoder(formats::nv12);
  const auto gpu = must(vulkan::Device::create({.validation = true}));
  const auto convert = must(vulkan::Convert::create(*gpu, {}));
  std::uint64_t got = 0;
  const auto viewer = must(FunctionSink::create([&](const Frame&) -> Result<void> {
    ++got;
    return {};
  }));
  Pipeline pipeline;
  BranchOptions options{.policy = Policy::wait_when_full};
  options.stages = {convert.get()};
  must(pipeline.connect(*decoder.source, *viewer, "viewer", std::move(options)));
  must(pipeline.prepare());
  must(pipeline.start());
  for (int generation = 0; generation < 3; ++generation) {
    const std::vector<Buffer> buffers{decoder.make(), decoder.make(), decoder.make()};
    decoder.show(pipeline, buffers, 6);
    for (const Buffer& buffer : buffers) decoder.source->forget(buffer);
  }
  EXPECT_EQ(got, 18U);
  must(pipeline.stop(Deadline::after(10s)));
  EXPECT_EQ(decoder.released, 18U);
}

// --- Time

TEST(Changes, AFrameIsShownAtTheRefreshNearestToItsTime) {
  if (!in_lab()) GTEST_SKIP() << "shows on vkms";
  const LeakCheck leaks;
  Foreign decoder;
  const auto card = must(kms::Device::open(card_path("vkms")));
  kms::Plane* const screen = must(must(card->output())->plane());
  std::vector<Presentation> seen;
  BranchOptions options{.policy = Policy::on_time, .max_queued = 8};
  options.on_presented = [&](const Presentation& one) { seen.push_back(one); };
  Pipeline pipeline;
  must(pipeline.connect(*decoder.source, *screen, "screen", std::move(options)));
  must(pipeline.prepare());
  must(pipeline.start());
  const std::vector<Buffer> buffers{decoder.make(), decoder.make(), decoder.make(), decoder.make()};
  const std::chrono::nanoseconds begin = Deadline::Clock::now().time_since_epoch() + 300ms;
  for (std::size_t i = 0; i < 12; ++i) {
    FrameInfo info;
    info.target = begin + 100ms * i;
    info.pts = 100ms * i;
    must(decoder.source->push(buffers[i % buffers.size()], info));
  }
  const BranchStats& branch = pipeline.stats().streams[0].branches[0];
  EXPECT_TRUE(step_until(pipeline, [&] { return seen.size() + branch.dropped.late >= 12; }));
  for (const Presentation& one : seen) {
    EXPECT_EQ(one.target, begin + *one.pts);
    // The display aims for within half a refresh period of the target. If a driver reports a flip by its timer, the
    // time may be one more period early.
    EXPECT_GE(one.presented, one.target - 50ms) << "early";
  }
  must(pipeline.stop(Deadline::after(5s)));
}

}  // namespace
}  // namespace dmaflow::test
