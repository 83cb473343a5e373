// The cost of a frame once the stage runs: no memory, no import and no new Vulkan object, all counted. Every device
// function that the library calls is counted on its way to the driver (vulkan_calls.hpp), and so are the library's
// system calls, at the seam. operator new is counted for the whole program, including the driver's C++. The driver's
// own malloc() is not counted.
#include "count_new.hpp"

#include "fence_support.hpp"
#include "vulkan_calls.hpp"

#include <atomic>
#include <functional>
#include <thread>
#include <tuple>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;

constexpr unsigned warm_up = 12;  // each input with each output: the driver compiles and allocates at the first use
constexpr unsigned frames = 48;

/// Signals each fence a few milliseconds after it was created, from its own thread.
class LateSignaller {
 public:
  /// @p is_taken: whether this many fences have been taken by the code that waits for them; none is signalled before.
  explicit LateSignaller(std::function<bool(std::uint32_t)> is_taken = {})
      : is_taken_(std::move(is_taken)), thread_([this] { run(); }) {}
  ~LateSignaller() {
    wanted_ = 0;
    wanted_.notify_one();
    thread_.join();
  }
  LateSignaller(const LateSignaller&) = delete;
  LateSignaller& operator=(const LateSignaller&) = delete;
  /// An active fence, which is signalled soon.
  Fence next() {
    Fence fence = timeline_.fence(++made_);
    wanted_ = made_ + 1;
    wanted_.notify_one();
    return fence;
  }
  /// True if a fence was not taken in time, and was signalled anyway.
  [[nodiscard]] bool gave_up() const { return gave_up_; }

 private:
  void wait_until_taken(std::uint32_t count) {
    const auto late = Deadline::after(20s);
    while (is_taken_ && !gave_up_ && wanted_ != 0 && !is_taken_(count)) {
      std::this_thread::sleep_for(1ms);
      gave_up_ = late.remaining() <= 0s;
    }
  }
  void run() {
    std::uint32_t done = 1;  // the timeline's value plus one
    while (true) {
      wanted_.wait(done);
      const std::uint32_t wanted = wanted_;
      if (wanted == 0) return;
      std::this_thread::sleep_for(3ms);
      wait_until_taken(wanted - 1);
      timeline_.advance(wanted - done);
      done = wanted;
    }
  }
  SwSync timeline_;
  std::function<bool(std::uint32_t)> is_taken_;
  std::uint32_t made_ = 0;
  std::atomic<std::uint32_t> wanted_{1};  // the value to reach plus one; 0: stop
  std::atomic<bool> gave_up_{false};
  std::thread thread_;
};

/// The number of Vulkan objects, memory allocations and imports of dma-bufs so far. The import of a fence does not
/// count.
std::size_t made() {
  return VulkanCalls::count("vkCreate") + VulkanCalls::count("vkAllocate") + VulkanCalls::count("vkBind") +
         VulkanCalls::count("vkGetMemoryFd");
}

/// A stage with three inputs and three outputs, without the validation layer, which allocates in every call.
class Rig {
 public:
  explicit Rig(const vulkan::ConvertOptions& options = {})
      : gpu_(must(vulkan::Device::create({.get_instance_proc_addr = VulkanCalls::get()}), "device")) {
    for (unsigned i = 0; i < 3; ++i) inputs_.push_back(heap_buffer({32, 32}, formats::nv12));
    stage_ = HeapStage::started(*gpu_, inputs_, options);
    holds_ = must(HoldSet::create(inputs_), "HoldSet");
  }

  /// Lends the next buffer, converts it, waits and releases it.
  void frame(FrameInfo info, Fence filled) {
    info.sequence = ++count_;
    must(stage_.convert->accept(must(holds_->lend(count_ % 3, info, std::move(filled)))), "accept");
    Frame result = must(stage_.convert->take(), "take");
    const auto late = Deadline::after(20s);
    while (!result && late.remaining() > 0s) {  // like the loop with a software device: wait, dispatch, take
      if (const int fence = stage_.convert->waiting_fence(); fence >= 0) sys::wait(fence, POLLIN, late);
      must(stage_.convert->dispatch(0), "dispatch");
      result = must(stage_.convert->take(), "take");
    }
    ASSERT_TRUE(result) << count_;
    EXPECT_EQ(result.info().sequence, count_);
    EXPECT_TRUE(result.ready().wait(late));
    result.release();
    while (holds_->take_returned()) continue;
  }

  /// Checks that frames after the warm-up cost nothing. @p next returns the n-th frame's description and fence.
  template <typename Next>
  void expect_free_of_charge(const char* what, const Next& next) {
    for (unsigned n = 0; n < warm_up; ++n) std::apply([this](auto&&... of) { frame(std::move(of)...); }, next(n));
    const CountCalls calls;
    const std::size_t made_before = made();
    const std::size_t submitted = VulkanCalls::count("vkQueueSubmit");
    const std::size_t fences = VulkanCalls::count("vkImportSemaphoreFdKHR");
    const std::size_t news = allocations;
    for (unsigned n = 0; n < frames; ++n) std::apply([this](auto&&... of) { frame(std::move(of)...); }, next(n));
    const std::size_t news_after = allocations;
    fences_imported = VulkanCalls::count("vkImportSemaphoreFdKHR") - fences;
    std::printf(
        "%s, %u frames: %zu objects of Vulkan, %zu by operator new, %zu fences imported, %.2f system calls each\n",
        what, frames, made() - made_before, news_after - news, fences_imported,
        static_cast<double>(calls.calls()) / frames);
    EXPECT_GT(made_before, 0U) << "nothing is seen";
    EXPECT_EQ(VulkanCalls::count("vkQueueSubmit") - submitted, frames);
    EXPECT_EQ(made() - made_before, 0U) << what;
    EXPECT_EQ(news_after - news, 0U) << what;
    EXPECT_LE(fences_imported, frames) << what;
  }

  std::size_t fences_imported = 0;  ///< in the last expect_free_of_charge()

 private:
  std::unique_ptr<vulkan::Device> gpu_;
  std::vector<Buffer> inputs_;
  HeapStage stage_;
  std::shared_ptr<HoldSet> holds_;
  std::uint32_t count_ = 0;
};

using Next = std::tuple<FrameInfo, Fence>;

class VulkanCost : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!in_lab()) GTEST_SKIP() << "wants the lab's devices";
  }
  VulkanCalls calls_;
};

TEST_F(VulkanCost, AFrameMakesNothingAndImportsNothing) {
  Rig({.size = Size{24, 24}}).expect_free_of_charge("scaled", [](unsigned) { return Next{}; });
  vulkan::Picture picture{.size = {8, 8}, .rgba = std::vector<std::uint8_t>(256, 100)};
  Rig({.overlay = picture, .in_flight = 1, .implicit_fences = true})
      .expect_free_of_charge("with a picture", [](unsigned) { return Next{}; });
}

TEST_F(VulkanCost, NorDoesAFrameOfAnotherShapeOrColour) {
  Rig().expect_free_of_charge("changing", [](unsigned n) {
    FrameInfo info{.visible = {0, 0, 16 + 2 * (n % 5), 32}};
    info.color.matrix = n % 2 == 0 ? ColorInfo::Matrix::bt601 : ColorInfo::Matrix::bt709;
    return Next{info, Fence()};
  });
}

TEST_F(VulkanCost, NorDoesAFrameThatIsWaitedForByTheLoopOrByTheGpu) {
  {
    LateSignaller late;
    Rig software;
    software.expect_free_of_charge("the loop waits", [&](unsigned) { return Next{FrameInfo{}, late.next()}; });
    EXPECT_EQ(software.fences_imported, 0U);
  }
  VulkanCalls::pretend_hardware();
  const std::size_t before = VulkanCalls::count("vkImportSemaphoreFdKHR");
  LateSignaller late(
      [before](std::uint32_t count) { return VulkanCalls::count("vkImportSemaphoreFdKHR") >= before + count; });
  Rig hardware;
  hardware.expect_free_of_charge("the GPU waits", [&](unsigned) { return Next{FrameInfo{}, late.next()}; });
  EXPECT_EQ(hardware.fences_imported, frames) << "by design, one for each frame whose fence is active";
  EXPECT_FALSE(late.gave_up());
}

}  // namespace
}  // namespace dmaflow::test
