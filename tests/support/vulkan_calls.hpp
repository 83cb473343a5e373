// A layer between the library and Vulkan: counts every call of a device function, and replaces the results of some for
// a test. The driver below is the real one. For programs with one device at a time.
#pragma once

#include "../../backends/vulkan/functions.hpp"

#include "vulkan_support.hpp"

#include <dmaflow/vulkan_convert.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dlfcn.h>

namespace dmaflow::test {

/// The device functions that the library uses: all that it fetches are listed here.
enum class VulkanCall : std::uint8_t {
#define DMAFLOW_TEST_CALL(name) name,
  DMAFLOW_VK_DEVICE(DMAFLOW_TEST_CALL)
#undef DMAFLOW_TEST_CALL
};

constexpr std::string_view vulkan_call_names[] = {
#define DMAFLOW_TEST_CALL(name) "vk" #name,
    DMAFLOW_VK_DEVICE(DMAFLOW_TEST_CALL)
#undef DMAFLOW_TEST_CALL
};

/// In effect during its lifetime, for devices that were created with get().
class VulkanCalls {
 public:
  VulkanCalls() { reset(); }
  ~VulkanCalls() { reset(); }
  VulkanCalls(const VulkanCalls&) = delete;
  VulkanCalls& operator=(const VulkanCalls&) = delete;

  /// For CreateOptions and Existing.
  [[nodiscard]] static PFN_vkGetInstanceProcAddr get() { return &instance_function; }

  /// The number of calls so far of the functions whose names begin with @p prefix, e.g. "vkCreate" or "vkQueueSubmit".
  [[nodiscard]] static std::size_t count(std::string_view prefix) {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < std::size(vulkan_call_names); ++i) {
      if (vulkan_call_names[i].starts_with(prefix)) sum += counts[i];
    }
    return sum;
  }
  /// From now on this function is not called and returns @p result instead; VK_SUCCESS: it is called again.
  static void answer(VulkanCall call, VkResult result) { answers[index(call)] = result; }
  /// From now on every function that can do so reports that the device is lost. Pending work has finished by then, as
  /// on a GPU that was reset.
  static void lose(const vulkan::Device& gpu) {
    EXPECT_EQ((Between<VulkanCall::DeviceWaitIdle, PFN_vkDeviceWaitIdle>::real(gpu.handle())), VK_SUCCESS);
    for (const VulkanCall call : {VulkanCall::QueueSubmit, VulkanCall::GetFenceStatus, VulkanCall::WaitForFences,
                                  VulkanCall::DeviceWaitIdle, VulkanCall::GetQueryPoolResults}) {
      answer(call, VK_ERROR_DEVICE_LOST);
    }
  }
  /// Devices created from now on are treated as hardware: work that waits for fences is submitted to them at once.
  static void pretend_hardware() { hardware = true; }
  /// Sets what vkGetSemaphoreFdKHR returns instead of the driver's sync_file, which has already signalled when it is
  /// created.
  static void give_fences(std::function<int()> make) { next_fence = std::move(make); }

 private:
  static constexpr std::size_t index(VulkanCall call) { return static_cast<std::size_t>(call); }
  static void reset() {
    for (auto& count : counts) count = 0;
    for (auto& answer : answers) answer = VK_SUCCESS;
    hardware = false;
    next_fence = nullptr;
  }

  template <VulkanCall which, typename Function>
  struct Between;
  template <VulkanCall which, typename Return, typename... Arguments>
  struct Between<which, Return(VKAPI_PTR*)(Arguments...)> {
    static inline Return(VKAPI_PTR* real)(Arguments...) = nullptr;
    static VKAPI_ATTR Return VKAPI_CALL call(Arguments... arguments) {
      ++counts[index(which)];
      if constexpr (std::is_same_v<Return, VkResult>) {
        if (const VkResult result = answers[index(which)]; result != VK_SUCCESS) return result;
      }
      if constexpr (which == VulkanCall::GetSemaphoreFdKHR) return other_fence(arguments...);
      return real(arguments...);
    }
    static VkResult other_fence(VkDevice device, const VkSemaphoreGetFdInfoKHR* info, int* fd) {
      const VkResult result = real(device, info, fd);
      if (result != VK_SUCCESS || !next_fence) return result;
      static_cast<void>(Fd::adopt(*fd));  // and closes it
      *fd = next_fence();
      return result;
    }
  };

  static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char* name) {
    PFN_vkVoidFunction real = get_device_proc_addr(device, name);
    if (real == nullptr) return nullptr;
#define DMAFLOW_TEST_CALL(function)                               \
  if (std::string_view(name) == "vk" #function) {                 \
    using Here = Between<VulkanCall::function, PFN_vk##function>; \
    Here::real = reinterpret_cast<PFN_vk##function>(real);        \
    return reinterpret_cast<PFN_vkVoidFunction>(&Here::call);     \
  }
    DMAFLOW_VK_DEVICE(DMAFLOW_TEST_CALL)
#undef DMAFLOW_TEST_CALL
    return real;
  }
  static VKAPI_ATTR void VKAPI_CALL properties(VkPhysicalDevice device, VkPhysicalDeviceProperties2* properties) {
    get_properties(device, properties);
    if (hardware) properties->properties.deviceType = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
  }
  static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_function(VkInstance instance, const char* name) {
    static const auto get_real = reinterpret_cast<PFN_vkGetInstanceProcAddr>(
        ::dlsym(::dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL), "vkGetInstanceProcAddr"));
    PFN_vkVoidFunction real = get_real(instance, name);
    if (std::string_view(name) == "vkGetDeviceProcAddr") {
      get_device_proc_addr = reinterpret_cast<PFN_vkGetDeviceProcAddr>(real);
      return reinterpret_cast<PFN_vkVoidFunction>(&device_function);
    }
    if (std::string_view(name) == "vkGetPhysicalDeviceProperties2") {
      get_properties = reinterpret_cast<PFN_vkGetPhysicalDeviceProperties2>(real);
      return reinterpret_cast<PFN_vkVoidFunction>(&properties);
    }
    return real;
  }

  static inline std::array<std::atomic<std::size_t>, std::size(vulkan_call_names)> counts{};
  static inline std::array<std::atomic<VkResult>, std::size(vulkan_call_names)> answers{};
  static inline std::atomic<bool> hardware{false};
  static inline std::function<int()> next_fence;
  static inline PFN_vkGetDeviceProcAddr get_device_proc_addr = nullptr;
  static inline PFN_vkGetPhysicalDeviceProperties2 get_properties = nullptr;
};

/// A stage outside any pipeline, from these buffers to linear buffers of the system heap.
struct HeapStage {
  std::unique_ptr<vulkan::Convert> convert;
  std::vector<Buffer> outputs;

  static HeapStage make(vulkan::Device& gpu, std::span<const Buffer> inputs, const vulkan::ConvertOptions& options = {},
                        std::uint32_t count = 3) {
    HeapStage stage{.convert = must(vulkan::Convert::create(gpu, options), "create"), .outputs = {}};
    StreamConfig config;
    config.layout = inputs.front().layout();
    must(stage.convert->set_input(config), "set_input");
    const auto offers = must(stage.convert->offers({}), "offers");
    const auto linear = std::ranges::find_if(offers, [](const auto& o) { return o.layout.modifier.is_linear(); });
    if (linear == offers.end()) std::abort();
    must(stage.convert->set_output(*linear), "set_output");
    const Layout& layout = stage.convert->output().layout;
    stage.outputs =
        must(system_heap()->allocate({.size = layout.size, .format = layout.format, .count = count}), "outputs");
    return stage;
  }
  static HeapStage started(vulkan::Device& gpu, std::span<const Buffer> inputs,
                           const vulkan::ConvertOptions& options = {}, std::uint32_t count = 3) {
    HeapStage stage = make(gpu, inputs, options, count);
    must(stage.convert->start(inputs, stage.outputs), "start");
    return stage;
  }
};

}  // namespace dmaflow::test
