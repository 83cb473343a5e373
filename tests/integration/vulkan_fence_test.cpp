// The stage and implicit fences: if a frame's producer has no other fences, the stage waits for those of its memory. It
// releases a frame whose fence failed, and attaches its own fence to its output if requested.
//
// lavapipe's fences have already signalled when they are returned. If a test needs an active one, vkGetSemaphoreFdKHR
// returns a fence of sw_sync instead (vulkan_calls.hpp).
#include "fence_support.hpp"
#include "vulkan_calls.hpp"

#include <dmaflow/implicit_fences.hpp>

#include <algorithm>
#include <functional>
#include <thread>

#include <sys/mman.h>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;

/// Counts the library's warnings about frames that were let go.
class Warnings {
 public:
  Warnings() { set_log_hook(&Warnings::hear, this); }
  ~Warnings() { set_log_hook(nullptr); }
  Warnings(const Warnings&) = delete;
  Warnings& operator=(const Warnings&) = delete;
  [[nodiscard]] std::size_t of_frames_let_go() const { return count_; }

 private:
  static void hear(LogLevel level, std::string_view message, void* self) {
    if (level == LogLevel::warning && message.find("is let go") != std::string_view::npos) {
      ++static_cast<Warnings*>(self)->count_;
    }
  }
  std::size_t count_ = 0;
};

class VulkanFences : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!in_lab()) GTEST_SKIP() << "wants the lab's devices";
    gpu = must(vulkan::Device::create({.get_instance_proc_addr = VulkanCalls::get()}), "device");
  }

  /// All bytes of a buffer that the stage has written.
  static std::vector<std::byte> contents(const Buffer& buffer) {
    auto access = must(CpuAccess::begin(buffer, Access::read, Deadline::after(5s)), "contents");
    return {access.object(0).begin(), access.object(0).end()};
  }
  static bool is_untouched(const HeapStage& stage) {
    return std::ranges::all_of(stage.outputs, [](const Buffer& output) {
      auto access = must(CpuAccess::begin(output, Access::read, Deadline::after(5s)), "contents");
      return std::ranges::all_of(access.object(0), [](std::byte b) { return b == std::byte{0}; });
    });
  }
  /// Runs as the loop does until there is a frame: waits for the fence that the stage waits for, and calls it.
  static Frame turn_until_taken(vulkan::Convert& convert) {
    const auto late = Deadline::after(20s);
    while (late.remaining() > 0s) {
      if (Frame frame = must(convert.take(), "take")) return frame;
      const int fence = convert.waiting_fence();
      if (fence >= 0 && sys::wait(fence, POLLIN, late) <= 0) break;
      must(convert.dispatch(0), "dispatch");
    }
    ADD_FAILURE() << "no frame came";
    return {};
  }

  VulkanCalls calls;
  std::unique_ptr<vulkan::Device> gpu;
};

/// Writes to a buffer without waiting for its fences, as its producer does.
void write_as_producer(const Buffer& buffer, std::byte grey) {
  auto* memory =
      static_cast<std::byte*>(::mmap(nullptr, buffer.size(0), PROT_READ | PROT_WRITE, MAP_SHARED, buffer.fd(0), 0));
  ASSERT_NE(memory, MAP_FAILED);
  std::fill_n(memory, buffer.size(0), grey);
  ::munmap(memory, buffer.size(0));
}

TEST_F(VulkanFences, AFrameIsNotReadBeforeTheWorkThatADriverHungOnItsMemory) {
  const LeakCheck leaks;
  Vgem vgem;
  const VgemBuffer memory = VgemBuffer::create(vgem);
  auto stage = HeapStage::started(*gpu, std::span(&memory.buffer, 1));
  const int fence = vgem.attach(memory.handles[0], true);  // attached last: the kernel signals it after ten seconds
  ASSERT_GT(fence, 0);
  must(stage.convert->accept(frame_of(memory.buffer, {.has_implicit_fences = true})), "accept");
  EXPECT_FALSE(must(stage.convert->take(), "take")) << "its producer is at work";
  ASSERT_GE(stage.convert->waiting_fence(), 0) << "the loop has something to wait for";
  EXPECT_EQ(sys::wait(stage.convert->waiting_fence(), POLLIN, Deadline::after(100ms)), 0);
  must(stage.convert->dispatch(0), "dispatch");
  EXPECT_TRUE(is_untouched(stage)) << "written to already";

  write_as_producer(memory.buffer, std::byte{0x5a});
  vgem.signal(fence);
  const Frame result = turn_until_taken(*stage.convert);
  ASSERT_TRUE(result);
  must(result.ready().wait(Deadline::after(5s)), "ready");
  EXPECT_EQ(contents(result.buffer())[0], std::byte{0x5a}) << "what the producer wrote last";
}

TEST_F(VulkanFences, NorBeforeBothWhereItHasAFenceOfItsOwnAsWell) {
  const LeakCheck leaks;
  Vgem vgem;
  SwSync producer;
  const VgemBuffer memory = VgemBuffer::create(vgem);
  auto stage = HeapStage::started(*gpu, std::span(&memory.buffer, 1));
  const int fence = vgem.attach(memory.handles[0], true);
  ASSERT_GT(fence, 0);
  must(stage.convert->accept(frame_of(memory.buffer, {.has_implicit_fences = true}, producer.fence(1))), "accept");
  producer.advance();
  EXPECT_FALSE(must(stage.convert->take(), "take")) << "the memory's";
  vgem.signal(fence);
  EXPECT_TRUE(turn_until_taken(*stage.convert));
}

// A reader does not wait for other readers.
TEST_F(VulkanFences, AReaderOnTheListIsNotWaitedFor) {
  const LeakCheck leaks;
  SwSync reader;
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  must(import_fence(buffer, reader.fence(1), Access::read), "import_fence");
  auto stage = HeapStage::started(*gpu, std::span(&buffer, 1));
  must(stage.convert->accept(frame_of(buffer, {.has_implicit_fences = true})), "accept");
  EXPECT_TRUE(must(stage.convert->take(), "take"));
  reader.advance();
}

// If the frame does not say that its producer uses implicit fences, the stage does not check them.
TEST_F(VulkanFences, TheListIsLeftAloneWhereTheFrameDoesNotSaySo) {
  const LeakCheck leaks;
  SwSync writer;
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  must(import_fence(buffer, writer.fence(1), Access::write), "import_fence");
  auto stage = HeapStage::started(*gpu, std::span(&buffer, 1));
  must(stage.convert->accept(frame_of(buffer)), "accept");
  EXPECT_TRUE(must(stage.convert->take(), "take"));
  writer.advance();
}

// --- Work that fails

/// Checks a frame whose fences fail: it is released with a warning, and the next one passes.
void expect_let_go(vulkan::Device& gpu, const Buffer& buffer, Fence own, const std::function<void()>& after_accept,
                   const std::string& what) {
  auto stage = HeapStage::started(gpu, std::span(&buffer, 1));
  auto holds = must(HoldSet::create({buffer}), "HoldSet");
  const Warnings warnings;
  const auto accepted = stage.convert->accept(must(holds->lend(0, {.has_implicit_fences = true}, std::move(own))));
  ASSERT_TRUE(accepted) << what << ": " << accepted.error().message();
  after_accept();
  const auto taken = stage.convert->take();
  ASSERT_TRUE(taken) << what << ": " << taken.error().message();
  EXPECT_FALSE(*taken) << what;
  EXPECT_EQ(holds->lent(), 0U) << what;
  EXPECT_EQ(warnings.of_frames_let_go(), 1U) << what;
  EXPECT_TRUE(stage.convert->ready()) << what;
  must(stage.convert->accept(frame_of(buffer, {.has_implicit_fences = true})), what.c_str());
  EXPECT_TRUE(must(stage.convert->take(), what.c_str())) << what;
}

TEST_F(VulkanFences, AFrameIsLetGoWhereEitherFenceFailed) {
  const LeakCheck leaks;
  const auto nothing = [] {};
  const auto fresh = [] { return heap_buffer({32, 32}, formats::xrgb8888); };
  {
    SwSync producer;
    Fence fence = producer.fence(1);
    producer.fail();
    expect_let_go(*gpu, fresh(), std::move(fence), nothing, "its own, before");
  }
  {
    SwSync producer;
    SwSync driver;
    const Buffer buffer = fresh();
    must(import_fence(buffer, driver.fence(1), Access::write), "import_fence");
    Fence fence = producer.fence(1);
    producer.fail();
    expect_let_go(*gpu, buffer, std::move(fence), [&] { driver.advance(); }, "its own, the memory's active");
  }
  {
    SwSync driver;
    const Buffer buffer = fresh();
    must(import_fence(buffer, driver.fence(1), Access::write), "import_fence");
    expect_let_go(*gpu, buffer, {}, [&] { driver.fail(); }, "the memory's, later");
  }
  {
    SwSync producer;
    SwSync driver;
    const Buffer buffer = fresh();
    must(import_fence(buffer, driver.fence(1), Access::write), "import_fence");
    expect_let_go(*gpu, buffer, producer.fence(1), [&] { driver.fail(); }, "the memory's, its own active");
    producer.advance();
  }
}

// --- The stage's output

TEST_F(VulkanFences, TheOutputCarriesTheFenceOfTheWorkWhereThatIsAskedFor) {
  const LeakCheck leaks;
  for (const bool asked : {true, false}) {
    SwSync work;
    VulkanCalls::give_fences([&] { return work.raw_fence(1).release(); });
    const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
    auto stage = HeapStage::started(*gpu, std::span(&buffer, 1), {.implicit_fences = asked});
    auto holds = must(HoldSet::create({buffer}), "HoldSet");
    must(stage.convert->accept(must(holds->lend(0, {}))), "accept");
    const Frame result = must(stage.convert->take(), "take");
    ASSERT_TRUE(result);
    EXPECT_EQ(must(result.ready().state()), Fence::State::active) << "handed on at once";
    EXPECT_FALSE(result.info().has_implicit_fences) << "it has one of its own";
    const Fence on_memory = must(export_fence(result.buffer(), Access::read), "export_fence");
    EXPECT_EQ(must(on_memory.state()), asked ? Fence::State::active : Fence::State::signalled);
    const auto back = holds->take_returned();
    ASSERT_TRUE(back) << "the input goes back at once";
    ASSERT_EQ(back->fences.size(), 1U) << "with the fence of the reading";
    EXPECT_EQ(must(back->fences[0].state()), Fence::State::active);
    work.advance();
    for (const Fence* fence : {&result.ready(), &on_memory, &std::as_const(back->fences[0])}) {
      EXPECT_EQ(must(fence->state()), Fence::State::signalled);
    }
  }
}

// --- A GPU that waits by itself

TEST_F(VulkanFences, WhereTheGpuWaitsTheFrameIsHandedOnAtOnceAndNotReadBefore) {
  const LeakCheck leaks;
  VulkanCalls::pretend_hardware();
  auto hardware = must(vulkan::Device::create({.get_instance_proc_addr = VulkanCalls::get()}), "device");
  SwSync producer;
  const Buffer buffer = heap_buffer({32, 32}, formats::xrgb8888);
  auto stage = HeapStage::started(*hardware, std::span(&buffer, 1));
  std::jthread later([&] {  // with lavapipe, only the caller can wait
    const auto late = Deadline::after(20s);
    while (VulkanCalls::count("vkImportSemaphoreFdKHR") == 0 && late.remaining() > 0s) {
      std::this_thread::sleep_for(1ms);
    }
    std::this_thread::sleep_for(100ms);
    EXPECT_TRUE(is_untouched(stage));
    write_as_producer(buffer, std::byte{0x5a});
    producer.advance();
  });
  must(stage.convert->accept(frame_of(buffer, {}, producer.fence(1))), "accept");
  EXPECT_EQ(VulkanCalls::count("vkImportSemaphoreFdKHR"), 1U);
  const Frame result = must(stage.convert->take(), "take");
  ASSERT_TRUE(result);
  must(result.ready().wait(Deadline::after(5s)), "ready");
  EXPECT_EQ(contents(result.buffer())[0], std::byte{0x5a});
}

}  // namespace
}  // namespace dmaflow::test
