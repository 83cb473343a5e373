// Vulkan's functions, loaded through the program's own vkGetInstanceProcAddr: no loader is linked.
#pragma once

#include <dmaflow/error.hpp>

#include <vulkan/vulkan_core.h>

// clang-format off
// Global functions, those of an instance, those of a device, and those of a device that may be missing.
#define DMAFLOW_VK_GLOBAL(X)                                                                        \
  X(CreateInstance) X(EnumerateInstanceVersion) X(EnumerateInstanceExtensionProperties)            \
  X(EnumerateInstanceLayerProperties)
#define DMAFLOW_VK_INSTANCE(X)                                                                      \
  X(DestroyInstance) X(EnumeratePhysicalDevices) X(GetPhysicalDeviceProperties2)                   \
  X(GetPhysicalDeviceFeatures2) X(GetPhysicalDeviceMemoryProperties) X(GetPhysicalDeviceQueueFamilyProperties) \
  X(GetPhysicalDeviceFormatProperties2) X(GetPhysicalDeviceImageFormatProperties2)                 \
  X(GetPhysicalDeviceExternalBufferProperties) X(GetPhysicalDeviceExternalSemaphoreProperties)     \
  X(EnumerateDeviceExtensionProperties) X(CreateDevice) X(GetDeviceProcAddr)
#define DMAFLOW_VK_DEVICE(X)                                                                        \
  X(DestroyDevice) X(GetDeviceQueue) X(QueueSubmit) X(DeviceWaitIdle)                              \
  X(CreateImage) X(DestroyImage) X(CreateImageView) X(DestroyImageView)                            \
  X(GetImageMemoryRequirements2) X(BindImageMemory2) X(GetImageSubresourceLayout)                  \
  X(CreateBuffer) X(DestroyBuffer) X(GetBufferMemoryRequirements2) X(BindBufferMemory2)            \
  X(AllocateMemory) X(FreeMemory) X(MapMemory) X(UnmapMemory)                                      \
  X(CreateSemaphore) X(DestroySemaphore)                                                           \
  X(CreateFence) X(DestroyFence) X(ResetFences) X(GetFenceStatus) X(WaitForFences)                 \
  X(CreateCommandPool) X(DestroyCommandPool) X(AllocateCommandBuffers) X(BeginCommandBuffer) X(EndCommandBuffer) \
  X(CmdPipelineBarrier) X(CmdBindPipeline) X(CmdBindDescriptorSets) X(CmdPushConstants) X(CmdDispatch) \
  X(CmdCopyBufferToImage) X(CmdResetQueryPool) X(CmdWriteTimestamp)                                \
  X(CreateQueryPool) X(DestroyQueryPool) X(GetQueryPoolResults)                                    \
  X(CreateShaderModule) X(DestroyShaderModule) X(CreateComputePipelines) X(DestroyPipeline)        \
  X(CreatePipelineLayout) X(DestroyPipelineLayout) X(CreateDescriptorSetLayout) X(DestroyDescriptorSetLayout) \
  X(CreateDescriptorPool) X(DestroyDescriptorPool) X(AllocateDescriptorSets) X(UpdateDescriptorSets) \
  X(CreateSampler) X(DestroySampler) X(CreateSamplerYcbcrConversion) X(DestroySamplerYcbcrConversion) \
  X(GetMemoryFdKHR) X(GetMemoryFdPropertiesKHR) X(ImportSemaphoreFdKHR) X(GetSemaphoreFdKHR)       \
  X(GetImageDrmFormatModifierPropertiesEXT)
// clang-format on

namespace dmaflow::vulkan {

/// The functions in use. Thread-safe once loaded.
struct Functions {
  // Vulkan's own names, without the prefix. NOLINTBEGIN(readability-identifier-naming)
#define DMAFLOW_VK_MEMBER(name) PFN_vk##name name = nullptr;
  DMAFLOW_VK_GLOBAL(DMAFLOW_VK_MEMBER)
  DMAFLOW_VK_INSTANCE(DMAFLOW_VK_MEMBER)
  DMAFLOW_VK_DEVICE(DMAFLOW_VK_MEMBER)
#undef DMAFLOW_VK_MEMBER
  // NOLINTEND(readability-identifier-naming)

  /// Errors of all three: VK_ERROR_INITIALIZATION_FAILED with the name of a function that is missing.
  [[nodiscard]] Result<void> load_global(PFN_vkGetInstanceProcAddr get) noexcept;
  [[nodiscard]] Result<void> load_instance(PFN_vkGetInstanceProcAddr get, VkInstance instance) noexcept;
  [[nodiscard]] Result<void> load_device(VkDevice device) noexcept;
};

/// vkGetInstanceProcAddr of libvulkan.so.1, which stays loaded. Errors: ENOENT (names the package).
[[nodiscard]] Result<PFN_vkGetInstanceProcAddr> load_library() noexcept;

}  // namespace dmaflow::vulkan
