// Frames in other libraries' dma-bufs: buffers are added and removed while they stream, each is imported once, and each
// frame is given back.
#include "pipeline_support.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/dmabuf_source.hpp>
#include <dmaflow/pipeline.hpp>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <thread>
#include <vector>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

class DmaBufSourceTest : public PipelineFixture {
 protected:
  void make(std::uint32_t max_buffers = 32) {
    DmaBufSourceOptions options{.name = "decoder", .max_buffers = max_buffers};
    options.released = [this](const Buffer& buffer, const FrameInfo& info, std::span<const Fence>) {
      released.push_back(info.user.get<int>().value_or(-1));
      last_released = buffer;
    };
    source = must(DmaBufSource::create(small_config(), {sample}, std::move(options)));
  }
  void start(BranchOptions options = {.policy = Policy::wait_when_full}) {
    must(pipeline.connect(*source, display, "screen", std::move(options)));
    const auto plans = pipeline.prepare();
    ASSERT_TRUE(plans) << plans.error().message();
    must(pipeline.start());
  }
  void push(const Buffer& buffer, int tag = 0) {
    FrameInfo info;
    info.user.set(tag);
    must(source->push(buffer, info));
    settle();
  }
  static Buffer foreign() { return memfd_buffer(small_config().layout); }

  Buffer sample = foreign();
  std::vector<int> released;
  Buffer last_released;
  std::unique_ptr<DmaBufSource> source;
  FakeSink recorder{"recorder"};
  CopyStage copy;
};

TEST_F(DmaBufSourceTest, ABufferThatComesIsImportedOnceAndItsFramesAreShownInOrder) {
  make();
  start();
  const int imports = display.imports;
  const std::vector<Buffer> buffers{foreign(), foreign(), foreign()};
  for (int i = 0; i < 9; ++i) push(buffers[static_cast<std::size_t>(i % 3)], i);
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(display.imports, imports + 3);
  EXPECT_EQ(released, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7})) << "all but the one on the screen";
}

TEST_F(DmaBufSourceTest, NoOtherMemoryIsTried) {
  make();
  pipeline.offer(heap);
  start();
  EXPECT_EQ(heap.made, 0U);
  EXPECT_EQ(pipeline.plans()[0].allocator->name(), "memory of decoder");
}

TEST_F(DmaBufSourceTest, ABufferIsFoundAgainByItsDmaBufsWhateverTheirNumbersAre) {
  make();
  const Fd dma_buf = memfd(std::uint64_t{64} * 48 * 4);
  const Layout layout = small_config().layout;
  const std::vector<int> first{dma_buf.get()};
  const Buffer one = must(source->buffer(layout, first));
  const Fd other_number = must(Fd::dup_of(dma_buf.get()));
  const std::vector<int> second{other_number.get()};
  EXPECT_TRUE(must(source->buffer(layout, second)) == one);
  source->forget(one);
  EXPECT_FALSE(must(source->buffer(layout, second)) == one);
}

TEST_F(DmaBufSourceTest, ABufferThatIsForgottenIsLetGoOnceItsLastFrameIs) {
  make();
  start();
  const Buffer buffer = foreign();
  push(buffer);
  const auto& changes = *source->holds();
  source->forget(buffer);
  settle();
  EXPECT_NE(std::ranges::find(changes.buffers(), buffer), changes.buffers().end()) << "it is on the screen";
  push(sample);
  settle();
  EXPECT_EQ(std::ranges::find(changes.buffers(), buffer), changes.buffers().end());
}

TEST_F(DmaBufSourceTest, ConsumersAreToldOfBuffersThatCameAndOfThoseThatLeft) {
  struct Told : FakeSink {
    Result<void> add_buffer(const Buffer& buffer) override {
      added.push_back(buffer);
      return import(buffer);
    }
    void remove_buffer(const Buffer& buffer) noexcept override { removed.push_back(buffer); }
    std::vector<Buffer> added;
    std::vector<Buffer> removed;
  } told;
  make();
  must(pipeline.connect(*source, told, "told"));
  start();
  const Buffer buffer = foreign();
  push(buffer);
  EXPECT_EQ(told.added, std::vector{buffer});
  source->forget(buffer);
  push(sample);
  push(sample);
  EXPECT_EQ(told.removed, std::vector{buffer});
  must(pipeline.stop(Deadline::immediate()));
}

TEST_F(DmaBufSourceTest, WithMoreBuffersThanItKnowsTheOneUnusedTheLongestLeavesAndAllAreShown) {
  make(4);
  start();
  for (int i = 0; i < 100; ++i) push(foreign(), i);
  EXPECT_EQ(display.shown.size(), 100U);
  EXPECT_EQ(released.size(), 99U);
  EXPECT_LE(source->holds()->buffers().size(), 4U);
}

TEST_F(DmaBufSourceTest, WhileEveryPlaceIsHeldFramesWaitAndNoneIsLost) {
  make(2);
  start();
  display.always_busy = true;
  for (int i = 0; i < 10; ++i) must(source->push(foreign()));
  for (int i = 0; i < 40; ++i) {
    settle();
    display.flip();
  }
  EXPECT_EQ(display.shown.size(), 10U);
}

TEST_F(DmaBufSourceTest, OneBufferMayCarrySeveralFramesAtOnce) {
  make();
  start();
  display.always_busy = true;
  const Buffer repeated = foreign();
  for (int i = 0; i < 3; ++i) must(source->push(repeated));
  for (int i = 0; i < 8; ++i) {
    settle();
    display.flip();
  }
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{0, 1, 2}));
}

TEST_F(DmaBufSourceTest, ABufferThatASinkRefusesIsReportedAndTheOtherBranchesShowItsFrame) {
  make();
  must(pipeline.connect(*source, recorder, "recorder"));
  std::vector<std::string> failures;
  pipeline.on_failure([&](const Failure& failure) {
    failures.emplace_back(failure.name);
    return true;
  });
  start();
  recorder.on_import = [](const Buffer&) -> Result<void> {
    return std::unexpected(Error::os(EINVAL, "import", "recorder"));
  };
  push(foreign());
  push(foreign());
  EXPECT_EQ(failures, std::vector<std::string>{"recorder"});
  EXPECT_EQ(display.shown.size(), 2U);
  must(pipeline.stop(Deadline::immediate()));
}

TEST_F(DmaBufSourceTest, EveryFrameIsGivenBackAlsoAtTheStop) {
  make();
  start();
  display.busy = true;
  for (int i = 0; i < 6; ++i) {
    FrameInfo info;
    info.user.set(i);
    must(source->push(foreign(), info));
  }
  settle();
  must(pipeline.stop(Deadline::immediate()));
  std::ranges::sort(released);
  EXPECT_EQ(released, (std::vector<int>{0, 1, 2, 3, 4, 5}));
}

TEST_F(DmaBufSourceTest, FramesOfAnotherThreadAllArriveAndItsEndEndsTheStream) {
  make();
  std::vector<Buffer> buffers{foreign(), foreign(), foreign(), foreign()};
  must(pipeline.connect(*source, display, "screen", {.policy = Policy::wait_when_full}));
  std::thread decoder([&] {
    for (std::size_t i = 0; i < 200; ++i) {
      while (!source->push(buffers[i % 4])) std::this_thread::sleep_for(milliseconds(1));
    }
    source->end();
  });
  must(pipeline.run());
  decoder.join();
  EXPECT_EQ(display.shown.size(), 200U);
}

TEST_F(DmaBufSourceTest, AStageThatCopiesTakesBuffersThatComeLater) {
  make();
  must(pipeline.connect(*source, display, "screen", {.policy = Policy::wait_when_full, .stages = {&copy}}));
  pipeline.offer(heap);
  ASSERT_TRUE(pipeline.prepare());
  must(pipeline.start());
  for (int i = 0; i < 5; ++i) push(foreign());
  EXPECT_EQ(display.shown.size(), 5U);
  must(pipeline.stop(Deadline::immediate()));
}

TEST_F(DmaBufSourceTest, WrongUseIsOneClearError) {
  make();
  EXPECT_TRUE(fails_with(DmaBufSource::create(small_config(), {}), EINVAL));
  EXPECT_TRUE(fails_with(DmaBufSource::create(small_config(formats::nv12), {sample}), EINVAL));
  EXPECT_TRUE(fails_with(DmaBufSource::create(small_config(), {sample}, {.max_buffers = 65}), EINVAL));
  EXPECT_TRUE(fails_with(source->push(Buffer()), EINVAL));
  EXPECT_TRUE(fails_with(source->push(memfd_buffer(small_config(formats::xrgb8888, {32, 32}).layout)), EINVAL));
  for (int i = 0; i < 64; ++i) must(source->push(sample));
  EXPECT_TRUE(fails_with(source->push(sample), EAGAIN));
  source->end();
  EXPECT_TRUE(fails_with(source->push(sample), EPIPE));
}

}  // namespace
