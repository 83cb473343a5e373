// A lost GPU: every call reports it at once, held frames are returned, nothing leaks, and the same program continues
// with a new device on the same buffers. The answers of a lost device are simulated (vulkan_calls.hpp), because no
// driver of the lab loses its device; everything else is the real driver.
#include "fence_support.hpp"
#include "kms_support.hpp"
#include "vulkan_calls.hpp"

#include <dmaflow/kms.hpp>
#include <dmaflow/pipeline.hpp>
#include <dmaflow/v4l2.hpp>

#include <cerrno>
#include <cstring>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;
using vulkan::Convert;

/// Asserts that a call failed with Vulkan's error for a lost device, without waiting.
template <typename Call>
::testing::AssertionResult says_lost(const Call& call) {
  const CountCalls waits("poll");
  const auto before = Deadline::Clock::now();
  const auto result = call();
  const auto spent = std::chrono::duration_cast<std::chrono::milliseconds>(Deadline::Clock::now() - before);
  if (result) return ::testing::AssertionFailure() << "it succeeded";
  if (result.error().domain() != ErrorDomain::vulkan || result.error().code() != VK_ERROR_DEVICE_LOST) {
    return ::testing::AssertionFailure() << result.error().message();
  }
  if (waits.calls() > 0) return ::testing::AssertionFailure() << "it waited";
  if (spent > 20s) return ::testing::AssertionFailure() << "it took " << spent.count() << " ms";
  return ::testing::AssertionSuccess();
}

class VulkanLost : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!in_lab()) GTEST_SKIP() << "wants the lab's devices";
    input = heap_buffer({32, 32}, formats::xrgb8888);
    fill_with_noise(input, 9);
  }
  static std::unique_ptr<vulkan::Device> device() {
    return must(vulkan::Device::create({.validation = true, .get_instance_proc_addr = VulkanCalls::get()}), "device");
  }

  /// Calls everything that the stage and its device offer: each call fails at once.
  void expect_all_is_over(vulkan::Device& gpu, Convert& convert) {
    EXPECT_TRUE(gpu.is_lost());
    EXPECT_TRUE(says_lost([&] { return convert.accept(frame_of(input)); }));
    EXPECT_TRUE(says_lost([&] { return convert.take(); }));
    EXPECT_TRUE(says_lost([&] { return convert.dispatch(0); }));
    EXPECT_TRUE(says_lost([&] { return convert.drain(Deadline::after(60s)); }));
    EXPECT_TRUE(says_lost([&] { return gpu.import_image(input, VK_IMAGE_USAGE_SAMPLED_BIT); }));
    EXPECT_TRUE(says_lost([&] { return gpu.import_memory(input, 0, VK_BUFFER_USAGE_STORAGE_BUFFER_BIT); }));
    EXPECT_TRUE(says_lost([&] { return gpu.create_semaphore(); }));
    EXPECT_TRUE(says_lost([&] { return gpu.create_timeline(); }));
    EXPECT_TRUE(says_lost([&] { return gpu.allocator().allocate({.size = {32, 32}, .format = formats::xrgb8888}); }));
    Fence null;
    EXPECT_TRUE(says_lost([&] { return gpu.import_fence(null, VK_NULL_HANDLE); }));
    EXPECT_TRUE(says_lost([&] { return gpu.export_fence(VK_NULL_HANDLE); }));
  }

  /// The stage works: its output equals its input.
  void expect_works(HeapStage& stage) {
    must(stage.convert->accept(frame_of(input)), "accept");
    const Frame result = must(stage.convert->take(), "take");
    ASSERT_TRUE(result);
    must(result.ready().wait(Deadline::after(5s)), "wait");
    auto is = must(CpuAccess::begin(result.buffer(), Access::read, Deadline::after(5s)), "result");
    auto was = must(CpuAccess::begin(input, Access::read, Deadline::after(5s)), "input");
    std::size_t differ = 0;
    for (std::size_t i = 0; i < std::size_t{32} * 32 * 4; ++i) {
      if (i % 4 != 3 && is.object(0)[i] != was.object(0)[i]) ++differ;
    }
    EXPECT_EQ(differ, 0U);
  }

  /// A new device and a new stage work on the same buffers in the same program.
  void expect_can_rebuild(const std::vector<Buffer>& outputs) {
    const VulkanCalls calls;
    auto gpu = device();
    auto stage = HeapStage::make(*gpu, std::span(&input, 1));
    stage.outputs = outputs;
    must(stage.convert->start(std::span(&input, 1), stage.outputs), "start");
    expect_works(stage);
    EXPECT_FALSE(gpu->is_lost());
  }

  Validation validation;
  Buffer input;
};

TEST_F(VulkanLost, InTheSubmission) {
  const LeakCheck leaks;
  std::vector<Buffer> outputs;
  {
    const VulkanCalls calls;
    auto gpu = device();
    auto stage = HeapStage::started(*gpu, std::span(&input, 1));
    outputs = stage.outputs;
    expect_works(stage);
    auto holds = must(HoldSet::create({input}), "HoldSet");
    VulkanCalls::lose(*gpu);
    EXPECT_TRUE(says_lost([&] { return stage.convert->accept(must(holds->lend(0, {}))); }));
    EXPECT_EQ(holds->lent(), 0U) << "the frame came back";
    expect_all_is_over(*gpu, *stage.convert);
    EXPECT_TRUE(stage.convert->stop());
    EXPECT_TRUE(says_lost([&] { return stage.convert->start(std::span(&input, 1), outputs); }));
    EXPECT_TRUE(says_lost([&] { return stage.convert->check_input({.layout = input.layout()}); }));
  }
  expect_can_rebuild(outputs);
}

// Each of these calls may be the first to report the loss.
TEST_F(VulkanLost, InEachCallThatCanTell) {
  for (const VulkanCall call :
       {VulkanCall::QueueSubmit, VulkanCall::GetFenceStatus, VulkanCall::GetSemaphoreFdKHR, VulkanCall::ResetFences}) {
    const LeakCheck leaks;
    const std::string_view name = vulkan_call_names[static_cast<std::size_t>(call)];
    std::vector<Buffer> outputs;
    auto holds = must(HoldSet::create({input}), "HoldSet");
    {
      const VulkanCalls calls;
      auto gpu = device();
      auto stage = HeapStage::started(*gpu, std::span(&input, 1));
      outputs = stage.outputs;
      expect_works(stage);
      VulkanCalls::answer(call, VK_ERROR_DEVICE_LOST);
      EXPECT_TRUE(says_lost([&] { return stage.convert->accept(must(holds->lend(0, {}))); })) << name;
      EXPECT_EQ(holds->lent(), 0U) << name << ": the frame came back";
      EXPECT_TRUE(gpu->is_lost()) << name;
      ASSERT_TRUE(holds->take_returned()) << name;
      EXPECT_TRUE(says_lost([&] { return stage.convert->accept(must(holds->lend(0, {}))); })) << name;
      EXPECT_EQ(holds->lent(), 0U) << name << ": and the next";
      VulkanCalls::answer(call, VK_SUCCESS);  // so that the layer knows that the GPU is idle
    }
    expect_can_rebuild(outputs);
    holds.reset();
  }
}

// When the device is lost, one frame waits for its fence and another was already passed on.
TEST_F(VulkanLost, WithFramesHeld) {
  const LeakCheck leaks;
  std::vector<Buffer> outputs;
  SwSync producer;
  auto holds = must(HoldSet::create({input}), "HoldSet");
  {
    const VulkanCalls calls;
    auto gpu = device();
    auto stage = HeapStage::started(*gpu, std::span(&input, 1));
    outputs = stage.outputs;
    VulkanCalls::answer(VulkanCall::GetFenceStatus, VK_NOT_READY);  // the GPU has not finished yet
    must(stage.convert->accept(frame_of(input)), "accept");
    Frame shown = must(stage.convert->take(), "take");
    must(stage.convert->accept(must(holds->lend(0, {}, producer.fence(1)))), "accept");
    EXPECT_EQ(holds->lent(), 1U) << "it waits for its producer";
    VulkanCalls::lose(*gpu);
    EXPECT_TRUE(says_lost([&] { return stage.convert->dispatch(0); }));
    expect_all_is_over(*gpu, *stage.convert);
    {
      const CountCalls waits("poll");
      EXPECT_TRUE(stage.convert->stop());
      EXPECT_EQ(waits.calls(), 0U) << "it waited for the producer";
    }
    EXPECT_EQ(holds->lent(), 0U) << "what it held came back";
    shown.release();
  }
  producer.advance();
  expect_can_rebuild(outputs);
}

// In a whole pipeline: the run ends with the error, the camera gets its buffers back, and another device replaces the
// lost one.
TEST_F(VulkanLost, InAPipelineTheRunEndsAndAnotherCanFollow) {
  const LeakCheck leaks;
  for (const bool lost : {true, false}) {
    const VulkanCalls calls;
    auto gpu = must(vulkan::Device::create({.get_instance_proc_addr = VulkanCalls::get()}), "device");
    const auto camera = must(v4l2::Camera::open("/dev/video0"));
    const auto card = must(kms::Device::open(card_path("virtio_gpu")));
    kms::Plane* screen = must(must(card->output())->plane());
    auto convert = must(Convert::create(*gpu, {.size = Size{1280, 720}}));
    auto heap = system_heap();
    Pipeline pipeline;
    pipeline.offer(*heap);
    must(pipeline.connect(*camera, *screen, "screen", {.stages = {convert.get()}}));
    const auto plans = pipeline.prepare({.size = Size{320, 180}, .formats = {formats::yuyv}});
    ASSERT_TRUE(plans) << plans.error().message();
    if (!lost) {
      must(pipeline.run({.frames = 3}), "run");
      continue;
    }
    std::size_t submits = 0;
    const auto ended = pipeline.run({.duration = 60s, .progress = [&](const Stats&) {
                                       submits = VulkanCalls::count("vkQueueSubmit");
                                       if (submits > 0) VulkanCalls::lose(*gpu);
                                     }});
    EXPECT_GT(submits, 0U) << "it ran before";
    EXPECT_TRUE(says_lost([&] { return ended; }));
    EXPECT_TRUE(gpu->is_lost());
  }
}

}  // namespace
}  // namespace dmaflow::test
