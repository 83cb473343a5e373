// What only a real GPU has: its own tilings, work that is still pending when a frame is passed on, and timelines that
// are the kernel's. Skipped if there is no such GPU. With DMAFLOW_TEST_ANY_GPU=1 a software device is used, to check
// that the tests themselves run.
#include "vulkan_support.hpp"

#include <dmaflow/timeline.hpp>
#include <dmaflow/vulkan_convert.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace dmaflow::test {
namespace {

using namespace std::chrono_literals;
using vulkan::Convert;

class VulkanHardware : public ::testing::Test {
 protected:
  void SetUp() override {
    const bool any = std::getenv("DMAFLOW_TEST_ANY_GPU") != nullptr;
    auto made = vulkan::Device::create({.allow_software = any});
    if (!made) GTEST_SKIP() << "no real GPU: " << made.error().message();
    gpu = std::move(*made);
  }

  /// A started stage from one buffer to another.
  [[nodiscard]] std::unique_ptr<Convert> stage(const Buffer& from, const Buffer& to) const {
    auto convert = must(Convert::create(*gpu, {.formats = {to.layout().format}}), "create");
    StreamConfig config;
    config.layout = from.layout();
    must(convert->set_input(config), "set_input");
    StreamConfig target;
    target.layout = to.layout();
    must(convert->set_output(target), "set_output");
    must(convert->import(from), "import");
    must(convert->try_output(to), "try_output");
    must(convert->start(std::span(&from, 1), {to}), "start");
    return convert;
  }

  std::unique_ptr<vulkan::Device> gpu;
};

Frame converted(Convert& convert, Frame frame) {
  must(convert.accept(std::move(frame)), "accept");
  const auto deadline = Deadline::after(10s);
  Frame result = must(convert.take(), "take");
  while (!result && deadline.remaining() > 0s) {
    must(convert.dispatch(0), "dispatch");
    result = must(convert.take(), "take");
  }
  EXPECT_TRUE(result);
  return result;
}

/// Compares the pixels without the unused byte.
void expect_same_pixels(const Buffer& one, const Buffer& other, const std::string& what) {
  auto first = must(CpuAccess::begin(one, Access::read, Deadline::after(5s)), "read");
  auto second = must(CpuAccess::begin(other, Access::read, Deadline::after(5s)), "read");
  const Layout& layout = one.layout();
  std::size_t different = 0;
  for (std::uint32_t y = 0; y < layout.size.height; ++y) {
    for (std::uint32_t x = 0; x < layout.size.width; ++x) {
      const auto* a = &first.plane(0)[std::size_t{y} * layout.planes[0].stride + 4UL * x];
      const auto* b = &second.plane(0)[std::size_t{y} * other.layout().planes[0].stride + 4UL * x];
      if (std::memcmp(a, b, 3) != 0) ++different;
    }
  }
  EXPECT_EQ(different, 0U) << what;
}

// From linear memory to the GPU's own tiling and back, by two stages that synchronise only on the GPU.
TEST_F(VulkanHardware, EachOfItsOwnArrangementsKeepsThePicture) {
  const Buffer picture = heap_buffer({640, 360}, formats::xrgb8888, {.stride_alignment = 256});
  const Buffer result = heap_buffer({640, 360}, formats::xrgb8888, {.stride_alignment = 256});
  fill_with_noise(picture, 1);
  int tried = 0;
  for (const auto& one : gpu->support(formats::xrgb8888, VK_IMAGE_USAGE_STORAGE_BIT | VK_IMAGE_USAGE_SAMPLED_BIT)) {
    if (!one.exportable || !one.importable) continue;
    const auto made =
        gpu->allocator().allocate({.size = {640, 360}, .format = formats::xrgb8888, .modifiers = {one.modifier}});
    ASSERT_TRUE(made) << one.modifier.name() << ": " << made.error().message();
    const Buffer& own = made->front();
    EXPECT_EQ(own.layout().modifier, one.modifier);
    EXPECT_EQ(own.layout().plane_count, one.plane_count);
    const auto there = stage(picture, own);
    const auto back = stage(own, result);
    const Frame last = converted(*back, converted(*there, frame_of(picture)));
    ASSERT_TRUE(last.ready().wait(Deadline::after(10s)));
    expect_same_pixels(picture, result, one.modifier.name());
    ++tried;
  }
  std::printf("%d arrangements on %s\n", tried, std::string(gpu->name()).c_str());
  if (tried == 0) GTEST_SKIP() << "the device has no arrangement that it both exports and writes to";
}

TEST_F(VulkanHardware, WorkThatIsHandedOnIsStillUnderWay) {
  if (gpu->is_software()) GTEST_SKIP() << "the fences of a software device have always signalled";
  const Buffer picture = heap_buffer({3840, 2160}, formats::xrgb8888, {.stride_alignment = 256});
  const Buffer result = heap_buffer({3840, 2160}, formats::xrgb8888, {.stride_alignment = 256});
  const auto convert = stage(picture, result);
  int pending = 0;
  for (int i = 0; i < 10; ++i) {
    const Frame frame = converted(*convert, frame_of(picture));
    if (must(frame.ready().state()) == Fence::State::active) ++pending;
    ASSERT_TRUE(frame.ready().wait(Deadline::after(10s)));
    EXPECT_EQ(must(frame.ready().state()), Fence::State::signalled);
    must(convert->dispatch(0), "dispatch");
  }
  if (pending == 0) GTEST_SKIP() << "ten times 4K, and each was over at once: nothing is known";
}

TEST_F(VulkanHardware, ItsTimelinesAreDrmSyncobjs) {
  const auto semaphore = gpu->create_timeline();
  if (!semaphore) GTEST_SKIP() << semaphore.error().message();
  const auto function = [&]<typename F>(F, const char* name) {
    return reinterpret_cast<F>(gpu->get_instance_proc_addr()(gpu->instance(), name));
  };
  const auto destroy = function(PFN_vkDestroySemaphore{}, "vkDestroySemaphore");
  const auto fd = gpu->export_timeline(*semaphore);
  if (!fd) {
    destroy(gpu->handle(), *semaphore, nullptr);
    GTEST_SKIP() << fd.error().message();
  }
  const auto device = must(SyncobjDevice::open(std::string(gpu->node())), "node");
  const auto timeline = must(Timeline::import_fd(device, fd->get()), "import");
  // The kernel's timeline sees the points that Vulkan signals, and vice versa.
  const VkSemaphoreSignalInfo three{
      .sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO, .pNext = nullptr, .semaphore = *semaphore, .value = 3};
  ASSERT_EQ(function(PFN_vkSignalSemaphoreKHR{}, "vkSignalSemaphoreKHR")(gpu->handle(), &three), VK_SUCCESS);
  EXPECT_EQ(must(timeline.query()), 3U);
  must(timeline.signal(5), "signal");
  std::uint64_t value = 0;
  ASSERT_EQ(
      function(PFN_vkGetSemaphoreCounterValueKHR{}, "vkGetSemaphoreCounterValueKHR")(gpu->handle(), *semaphore, &value),
      VK_SUCCESS);
  EXPECT_EQ(value, 5U);
  destroy(gpu->handle(), *semaphore, nullptr);
}

}  // namespace
}  // namespace dmaflow::test
