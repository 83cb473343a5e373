// The GPU stage: the cost of a frame in the thread that submits it, compared with a hand-written loop that submits the
// same command buffers to the same queue.
//   gpu --count [--json FILE]    instructions, in tests/lab/run --icount; fails if the stage costs more than 5% more
#include "count.hpp"
#include "raw/vulkan.hpp"
#include "repeat.hpp"
#include "sw_fence.hpp"

#include <dmaflow/heap.hpp>
#include <dmaflow/vulkan_convert.hpp>

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dlfcn.h>

namespace bench {
namespace {

using dmaflow::Buffer;
using dmaflow::Fd;
using dmaflow::Fence;
using dmaflow::HoldSet;
using dmaflow::vulkan::Convert;
using dmaflow::vulkan::Device;

constexpr double instructions_limit = 1.05;
constexpr std::uint32_t buffers = 3;

/// A duplicate of the fence's descriptor.
int copy_of(const SwFence& fence) {
  const int fd = ::fcntl(fence.fd(), F_DUPFD_CLOEXEC, 3);
  require(fd >= 0, "fcntl(F_DUPFD_CLOEXEC)");
  return fd;
}

// --- Between both ways and the driver -------------------------------------------------------------------------------

/// The functions through which both ways call the driver. They record what the stage submits. If the driver is left
/// out, they return at once, like a GPU whose work is always finished.
struct Driver {
  static inline bool left_out = false;
  static inline bool is_hardware = false;       // true: a device created now waits for fences itself
  static inline const SwFence* work = nullptr;  // the fence of submitted work if the driver is left out
  static inline VkCommandBuffer submitted = VK_NULL_HANDLE;
  static inline VkQueryPool queries = VK_NULL_HANDLE;  // of the newest stage; null if it does not measure
  static inline PFN_vkCreateQueryPool create_queries = nullptr;
  static inline raw::VulkanCalls real{};
  static inline PFN_vkGetInstanceProcAddr get_instance = nullptr;
  static inline PFN_vkGetDeviceProcAddr get_device = nullptr;
  static inline PFN_vkGetPhysicalDeviceProperties2 get_properties = nullptr;
};

VKAPI_ATTR VkResult VKAPI_CALL submit(VkQueue queue, std::uint32_t count, const VkSubmitInfo* work, VkFence fence) {
  Driver::submitted = work->pCommandBuffers[0];
  return Driver::left_out ? VK_SUCCESS : Driver::real.submit(queue, count, work, fence);
}
VKAPI_ATTR VkResult VKAPI_CALL status(VkDevice device, VkFence fence) {
  return Driver::left_out ? VK_SUCCESS : Driver::real.status(device, fence);
}
VKAPI_ATTR VkResult VKAPI_CALL wait(VkDevice device, std::uint32_t count, const VkFence* fences, VkBool32 all,
                                    std::uint64_t timeout) {
  return Driver::left_out ? VK_SUCCESS : Driver::real.wait(device, count, fences, all, timeout);
}
VKAPI_ATTR VkResult VKAPI_CALL reset(VkDevice device, std::uint32_t count, const VkFence* fences) {
  return Driver::left_out ? VK_SUCCESS : Driver::real.reset(device, count, fences);
}
VKAPI_ATTR VkResult VKAPI_CALL import_fd(VkDevice device, const VkImportSemaphoreFdInfoKHR* info) {
  if (!Driver::left_out) return Driver::real.import(device, info);
  ::close(info->fd);
  return VK_SUCCESS;
}
VKAPI_ATTR VkResult VKAPI_CALL get_fd(VkDevice device, const VkSemaphoreGetFdInfoKHR* info, int* fd) {
  if (!Driver::left_out) return Driver::real.get_fd(device, info, fd);
  *fd = copy_of(*Driver::work);
  return VK_SUCCESS;
}
VKAPI_ATTR VkResult VKAPI_CALL results(VkDevice device, VkQueryPool pool, std::uint32_t first, std::uint32_t count,
                                       std::size_t size, void* data, VkDeviceSize stride, VkQueryResultFlags flags) {
  return Driver::left_out ? VK_SUCCESS : Driver::real.results(device, pool, first, count, size, data, stride, flags);
}
VKAPI_ATTR VkResult VKAPI_CALL create_queries(VkDevice device, const VkQueryPoolCreateInfo* info,
                                              const VkAllocationCallbacks* callbacks, VkQueryPool* pool) {
  const VkResult result = Driver::create_queries(device, info, callbacks, pool);
  Driver::queries = *pool;
  return result;
}
VKAPI_ATTR void VKAPI_CALL properties(VkPhysicalDevice device, VkPhysicalDeviceProperties2* of) {
  Driver::get_properties(device, of);
  if (Driver::is_hardware) of->properties.deviceType = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
}

template <typename Function>
PFN_vkVoidFunction in_place_of(Function& real, PFN_vkVoidFunction found, Function here) {
  real = reinterpret_cast<Function>(found);
  return reinterpret_cast<PFN_vkVoidFunction>(here);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char* name) {
  PFN_vkVoidFunction found = Driver::get_device(device, name);
  const std::string_view is(name);
  if (is == "vkQueueSubmit") return in_place_of(Driver::real.submit, found, &submit);
  if (is == "vkGetFenceStatus") return in_place_of(Driver::real.status, found, &status);
  if (is == "vkWaitForFences") return in_place_of(Driver::real.wait, found, &wait);
  if (is == "vkGetQueryPoolResults") return in_place_of(Driver::real.results, found, &results);
  if (is == "vkCreateQueryPool") return in_place_of(Driver::create_queries, found, &create_queries);
  if (is == "vkResetFences") return in_place_of(Driver::real.reset, found, &reset);
  if (is == "vkImportSemaphoreFdKHR") return in_place_of(Driver::real.import, found, &import_fd);
  if (is == "vkGetSemaphoreFdKHR") return in_place_of(Driver::real.get_fd, found, &get_fd);
  return found;
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_function(VkInstance instance, const char* name) {
  PFN_vkVoidFunction found = Driver::get_instance(instance, name);
  const std::string_view is(name);
  if (is == "vkGetDeviceProcAddr") return in_place_of(Driver::get_device, found, &device_function);
  if (is == "vkGetPhysicalDeviceProperties2") return in_place_of(Driver::get_properties, found, &properties);
  return found;
}

PFN_vkGetInstanceProcAddr instance_functions() {
  void* const library = ::dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
  require(library != nullptr, "no libvulkan.so.1");
  Driver::get_instance = reinterpret_cast<PFN_vkGetInstanceProcAddr>(::dlsym(library, "vkGetInstanceProcAddr"));
  return &instance_function;
}

// --- Both ways ------------------------------------------------------------------------------------------------------

std::vector<Buffer> some_buffers(dmaflow::PixelFormat format) {
  auto heap = must(dmaflow::heap::Allocator::open("system"));
  return must(heap->allocate({.size = {16, 16}, .format = format, .count = buffers}));
}

/// A stage with its buffers, and the hand-written loop on the same device and with the same recorded work.
class Rig {
 public:
  Rig(bool is_hardware, bool measure) {
    Driver::is_hardware = is_hardware;
    Driver::queries = VK_NULL_HANDLE;
    gpu_ = must(Device::create({.get_instance_proc_addr = instance_functions()}));
    const auto inputs = some_buffers(dmaflow::formats::nv12);
    const auto outputs = some_buffers(dmaflow::formats::xrgb8888);
    stage_ = must(Convert::create(*gpu_, {.measure = measure}));
    dmaflow::StreamConfig config;
    config.layout = inputs.front().layout();
    must(stage_->set_input(config));
    config.layout = outputs.front().layout();
    must(stage_->set_output(config));
    must(stage_->start(inputs, outputs));
    holds_ = must(HoldSet::create(inputs));
    make_loop();
    for (std::uint32_t i = 0; i < buffers; ++i) {  // find each buffer's command buffer
      ours({});
      commands_[next_] = {Driver::submitted, Driver::queries, 2 * (next_ * buffers + last_output_)};
    }
  }

  [[nodiscard]] std::string_view device_name() const { return gpu_->name(); }
  /// The driver and its version, because its instructions are included in the count.
  [[nodiscard]] std::string driver() const {
    VkPhysicalDeviceDriverProperties driver{};
    driver.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES;
    VkPhysicalDeviceProperties2 of{};
    of.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
    of.pNext = &driver;
    Driver::get_properties(gpu_->physical_device(), &of);
    return std::string(gpu_->name()) + ", " + std::data(driver.driverInfo);
  }

  /// Passes one frame through the stage, until both buffers are free again.
  [[gnu::always_inline]] void ours(Fence filled) {
    next_ = (next_ + 1) % buffers;
    require(stage_->accept(holds_->lend(next_, {}, std::move(filled)).value()).has_value(), "Convert::accept");
    auto result = stage_->take();
    require(result && *result, "Convert::take");
    last_output_ = result->index();
    result->release();
    while (const auto back = holds_->take_returned()) {
      for (Fence& fence : back->fences) fence = Fence();
    }
  }
  [[gnu::always_inline]] void same(int filled) {
    next_ = (next_ + 1) % buffers;
    raw::GpuFrame result{};
    require(loop_->convert(commands_[next_], filled, result) == 0, "the loop by hand");
    if (result.ready >= 0) ::close(result.ready);
    if (result.release >= 0) ::close(result.release);
  }

 private:
  void make_loop() {
    const auto create = reinterpret_cast<PFN_vkCreateFence>(Driver::get_device(gpu_->handle(), "vkCreateFence"));
    std::array<raw::GpuSlot, 2> slots{};
    for (raw::GpuSlot& slot : slots) {
      VkFenceCreateInfo info{};
      info.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
      slot.acquired = must(gpu_->create_semaphore());
      slot.done = must(gpu_->create_semaphore());
      require(create(gpu_->handle(), &info, nullptr, &slot.fence) == VK_SUCCESS, "vkCreateFence");
    }
    const raw::VulkanCalls calls{&submit, &status, &wait, &reset, &import_fd, &get_fd, &results};
    loop_.emplace(calls, gpu_->handle(), gpu_->queue(), slots);
  }

  std::unique_ptr<Device> gpu_;
  std::unique_ptr<Convert> stage_;
  std::shared_ptr<HoldSet> holds_;
  std::optional<raw::GpuLoop> loop_;
  std::array<raw::GpuWork, buffers> commands_{};
  std::uint32_t last_output_ = 0;
  std::uint32_t next_ = 0;
};

/// Frames that are complete when they are submitted, as a camera's are.
Operation finished_frames(const char* name, const std::shared_ptr<Rig>& rig, int batch) {
  const auto ours = [rig](int times) {
    for (int i = 0; i < times; ++i) rig->ours({});
  };
  const auto same = [rig](int times) {
    for (int i = 0; i < times; ++i) rig->same(-1);
  };
  return {.name = name, .batch = batch, .ways = {{"dmaflow", ours}, {"by hand", same}}};
}

/// Frames that are not complete, so the GPU waits for them.
Operation awaited_frames(const char* name, const std::shared_ptr<Rig>& rig, int batch) {
  struct Fences {
    SwFence active;
    std::vector<int> copies;
  };
  const auto fences = std::make_shared<Fences>();
  const auto prepare = [fences](int times) {
    fences->copies.clear();
    for (int i = 0; i < times; ++i) fences->copies.push_back(copy_of(fences->active));
  };
  const auto ours = [rig, fences](int times) {
    for (int i = 0; i < times; ++i) {
      rig->ours(Fence::adopt_unchecked(Fd::adopt(fences->copies[static_cast<std::size_t>(i)])));
    }
  };
  const auto same = [rig, fences](int times) {
    for (int i = 0; i < times; ++i) rig->same(fences->copies[static_cast<std::size_t>(i)]);
  };
  return {.name = name, .batch = batch, .ways = {{"dmaflow", ours, prepare}, {"by hand", same, prepare}}};
}

int count(const CountOptions& options) {
  const auto timed = std::make_shared<Rig>(false, true);
  CountLog log{.program = "gpu", .counted = "thread", .with = timed->driver()};
  std::printf(
      "NV12 to XRGB8888, 16x16, on %s. Counted: the calling thread, user and kernel, the driver's part included.\n",
      std::string(timed->device_name()).c_str());
  const std::array by_default{finished_frames("frame", timed, 20)};
  const bool good = count_instructions(by_default, instructions_limit, Counted::thread, &log);

  const auto plain = std::make_shared<Rig>(false, false);
  std::printf("\nWithout the GPU's clock (ConvertOptions::measure), in both. No limit.\n");
  const std::array without_clock{finished_frames("frame, not measured", plain, 20)};
  show_instructions(without_clock, Counted::thread, &log);

  const SwFence work;
  Driver::work = &work;
  const auto waiting = std::make_shared<Rig>(true, false);
  Driver::left_out = true;
  const std::array without_driver{finished_frames("frame, no driver", plain, 50),
                                  awaited_frames("awaited, no driver", waiting, 50)};
  std::printf("\nThe driver left out, its calls answer at once: the stage, the loop, their system calls. No limit.\n");
  show_instructions(without_driver, Counted::thread, &log);
  Driver::left_out = false;
  log.write(options.json);
  return good ? 0 : 1;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  if (const auto options = bench::parse_count(argc, argv)) return bench::count(*options);
  std::fprintf(stderr, "usage: gpu --count [--json FILE]\n");
  return 2;
}
