// How branches treat frames that their sinks are not ready for, and what sources are asked for.
#include "pipeline_support.hpp"

#include <dmaflow/function_sink.hpp>
#include <dmaflow/pipeline.hpp>

#include <cerrno>
#include <memory>
#include <vector>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::milliseconds;

class PipelinePolicy : public PipelineFixture {
 protected:
  static constexpr std::uint32_t enough = 12;  // buffers: so many that no test has to wait for one

  FakeSink encoder{"encoder"};
  FakeSource wide{{small_config(), small_config(formats::xrgb8888, {128, 48})}, "wide"};
  std::unique_ptr<FunctionSink> sink;
};

/// Has the next of its 100 frames whenever a buffer is free, like a decoder that reads from a file.
struct Decoder : FakeSource {
  Decoder() : FakeSource({small_config()}, "decoder") {}
  Result<void> start(std::span<const Buffer> buffers) override {
    auto begun = FakeSource::start(buffers);
    decode();
    return begun;
  }
  Result<Frame> take() override {
    must(dispatch(0));
    auto frame = FakeSource::take();
    decode();
    return frame;
  }
  void decode() {
    if (made < 100 && expose()) ++made;
    if (made == 100) end();
  }
  int made = 0;
};

TEST_F(PipelinePolicy, WaitWhenFullLosesNoFrameOfAFileAndGoesAtTheSlowerOnesSpeed) {
  Decoder decoder;
  Pipeline own;
  must(own.connect(decoder, encoder, "encoder", {.policy = Policy::wait_when_full, .max_queued = 2}));
  own.offer(heap);
  ASSERT_TRUE(own.prepare());
  encoder.always_busy = true;
  must(own.start());
  for (int turn = 0; turn < 2000 && !own.ended(); ++turn) {
    must(own.step(Deadline::after(milliseconds(1))));
    EXPECT_LE(own.stats().streams[0].branches[0].held, 2U);
    if (turn % 2 == 0) encoder.flip();
  }
  EXPECT_TRUE(own.ended());
  expect_all_counted(own.stats());
  must(own.stop(Deadline::after(milliseconds(100))));
  EXPECT_EQ(own.stats().streams[0].captured, 100U);
  EXPECT_EQ(own.stats().streams[0].branches[0].delivered, 100U);
  ASSERT_EQ(encoder.shown.size(), 100U);
  for (std::size_t i = 0; i < 100; ++i) EXPECT_EQ(encoder.shown[i], i);
}

TEST_F(PipelinePolicy, ARunOfAFileEndsWhenItsLastFrameWasDelivered) {
  Decoder decoder;
  std::vector<std::uint64_t> got;
  sink = must(FunctionSink::create([&](const Frame& frame) -> Result<void> {
    got.push_back(frame.info().sequence);
    return {};
  }));
  Pipeline own;
  must(own.connect(decoder, *sink, "analysis", {.policy = Policy::wait_when_full}));
  own.offer(heap);
  must(own.run({.frame_timeout = std::chrono::seconds(20)}));
  EXPECT_EQ(got.size(), 100U);
  EXPECT_EQ(own.stats().streams[0].branches[0].delivered, 100U);
}

TEST_F(PipelinePolicy, WhileABranchIsFullNothingSpinsAndNobodyIsBlamedForTheSource) {
  must(pipeline.connect(camera, encoder, "encoder", {.policy = Policy::wait_when_full, .max_queued = 2}));
  start({.buffers = enough});
  encoder.always_busy = true;
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(camera.expose());
  settle();
  EXPECT_EQ(stream().captured, 4U) << "one shown, one staged, two that wait";
  const CountCalls count;
  EXPECT_FALSE(must(pipeline.step(Deadline::after(milliseconds(20))))) << "the camera's descriptor is readable";
  EXPECT_EQ(count.calls(), 1U) << "one wait, to its deadline";
  encoder.flip();
  settle();
  EXPECT_EQ(stream().captured, 5U);
}

TEST_F(PipelinePolicy, TheOtherBranchesGoAtTheSpeedOfTheOneThatMayLoseNothing) {
  must(pipeline.connect(camera, encoder, "encoder", {.policy = Policy::wait_when_full, .max_queued = 1}));
  must(pipeline.connect(camera, display));
  start({.buffers = enough});
  encoder.always_busy = true;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(camera.expose());
  settle();
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{0, 1, 2}));
  for (int i = 0; i < 4; ++i) {
    encoder.flip();
    settle();
  }
  EXPECT_EQ(encoder.shown, (std::vector<std::uint64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(display.shown, (std::vector<std::uint64_t>{0, 1, 2, 3, 4}));
}

TEST_F(PipelinePolicy, TwoSourcesAreAskedForDifferentSizes) {
  must(pipeline.connect(camera, display));
  EXPECT_TRUE(fails_with(pipeline.request(wide, {}), EINVAL)) << "it has no branch yet";
  must(pipeline.connect(wide, encoder));
  must(pipeline.request(wide, {.size = Size{128, 48}}));
  pipeline.offer(heap);
  const auto plans = pipeline.prepare({.size = Size{64, 48}});
  ASSERT_TRUE(plans) << plans.error().message();
  EXPECT_EQ((*plans)[0].config.layout.size, (Size{64, 48}));
  EXPECT_EQ((*plans)[1].config.layout.size, (Size{128, 48}));
  must(pipeline.start());
  wide.changed = true;
  ASSERT_TRUE(wide.expose());
  settle();
  EXPECT_EQ(pipeline.plans()[1].config.layout.size, (Size{128, 48})) << "after a change, too";
}

// --- FunctionSink ----------------------------------------------------------------------------------------------------

TEST_F(PipelinePolicy, AFunctionGetsEachFrameOnceItsFenceHasSignalled) {
  std::vector<std::uint64_t> got;
  std::vector<Frame> kept;
  sink = must(FunctionSink::create(
      [&](Frame frame) -> Result<void> {
        got.push_back(frame.info().sequence);
        if (got.size() == 1) kept.push_back(std::move(frame));
        return {};
      },
      {.max_held = 2}));
  must(pipeline.connect(camera, *sink, "analysis", {.policy = Policy::drop_when_full}));
  start({.buffers = enough});
  ASSERT_TRUE(camera.expose());
  settle();
  ASSERT_TRUE(camera.expose());
  settle();
  EXPECT_EQ(got, (std::vector<std::uint64_t>{0, 1}));
  EXPECT_EQ(camera.holds()->lent(), 1U) << "what the function keeps is held";
  kept.clear();
  settle();
  EXPECT_EQ(camera.holds()->lent(), 0U);
}

TEST_F(PipelinePolicy, AnErrorOfTheFunctionEndsTheRunAndItsFormatsAreAskedFor) {
  const auto fails = [](const Frame&) -> Result<void> { return std::unexpected(Error::os(EIO, "encode", "encoder")); };
  const auto picky = must(FunctionSink::create(fails, {.formats = {formats::nv12}}));
  EXPECT_TRUE(fails_with(picky->check_input(small_config()), EINVAL));
  EXPECT_TRUE(fails_with(FunctionSink::create({}), EINVAL));
  sink = must(FunctionSink::create(fails));
  must(pipeline.connect(camera, *sink));
  start({.buffers = enough});
  ASSERT_TRUE(camera.expose());
  EXPECT_TRUE(fails_with(pipeline.step(Deadline::after(milliseconds(20))), EIO));
}

}  // namespace
