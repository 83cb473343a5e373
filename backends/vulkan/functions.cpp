#include "functions.hpp"

#include <cerrno>

#include <dlfcn.h>

namespace dmaflow::vulkan {
namespace {

Result<void> missing(const char* name) noexcept {
  return std::unexpected(
      Error::vulkan(VK_ERROR_INITIALIZATION_FAILED, "vkGetInstanceProcAddr").detail("the driver has no %s", name));
}

}  // namespace

// A member's name cannot be parenthesized. NOLINTBEGIN(bugprone-macro-parentheses)
#define DMAFLOW_VK_LOAD(getter, object, function)                                \
  function = reinterpret_cast<PFN_vk##function>(getter(object, "vk" #function)); \
  if (function == nullptr) return missing("vk" #function);
// NOLINTEND(bugprone-macro-parentheses)

Result<void> Functions::load_global(PFN_vkGetInstanceProcAddr get) noexcept {
#define DMAFLOW_VK_LOAD_GLOBAL(name) DMAFLOW_VK_LOAD(get, VK_NULL_HANDLE, name)
  DMAFLOW_VK_GLOBAL(DMAFLOW_VK_LOAD_GLOBAL)
  return {};
}

Result<void> Functions::load_instance(PFN_vkGetInstanceProcAddr get, VkInstance instance) noexcept {
#define DMAFLOW_VK_LOAD_INSTANCE(name) DMAFLOW_VK_LOAD(get, instance, name)
  DMAFLOW_VK_INSTANCE(DMAFLOW_VK_LOAD_INSTANCE)
  return {};
}

Result<void> Functions::load_device(VkDevice device) noexcept {
#define DMAFLOW_VK_LOAD_DEVICE(name) DMAFLOW_VK_LOAD(GetDeviceProcAddr, device, name)
  DMAFLOW_VK_DEVICE(DMAFLOW_VK_LOAD_DEVICE)
  return {};
}

Result<PFN_vkGetInstanceProcAddr> load_library() noexcept {
  void* const library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
  void* const function = library == nullptr ? nullptr : dlsym(library, "vkGetInstanceProcAddr");
  if (function == nullptr) {
    const char* const why = dlerror();  // thread-local. NOLINT(concurrency-mt-unsafe)
    return std::unexpected(Error::os(ENOENT, "dlopen", "libvulkan.so.1")
                               .detail("%s: install Vulkan's loader (Debian: libvulkan1) and a driver",
                                       why == nullptr ? "not loaded" : why));
  }
  return reinterpret_cast<PFN_vkGetInstanceProcAddr>(function);
}

}  // namespace dmaflow::vulkan
