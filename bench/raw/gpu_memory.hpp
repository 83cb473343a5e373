// Memory of a GPU by the bare C interfaces of libgbm and Vulkan, as written by an expert who knows the driver: which
// calls it has, and that it makes linear images. Functions return the result, or a negative number: -errno or a
// VkResult.
#pragma once

#include "memory.hpp"

#include <array>
#include <cerrno>
#include <cstdint>

#include <fcntl.h>
#include <gbm.h>
#include <unistd.h>
#include <vulkan/vulkan_core.h>

namespace raw {

// --- GBM -------------------------------------------------------------------------------------------------------------

// Exports with the kernel's ioctl, because with some drivers libgbm's own export omits write permission.
inline int gbm_alloc(gbm_device* device, std::uint32_t width, std::uint32_t height) noexcept {
  gbm_bo* const bo = gbm_bo_create(device, width, height, GBM_FORMAT_XRGB8888, GBM_BO_USE_LINEAR);
  if (bo == nullptr) return errno != 0 ? -errno : -EINVAL;
  drm_prime_handle prime{.handle = gbm_bo_get_handle(bo).u32, .flags = DRM_CLOEXEC | DRM_RDWR, .fd = -1};
  const int result = call(gbm_device_get_fd(device), DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime);
  gbm_bo_destroy(bo);
  return result < 0 ? result : prime.fd;
}

inline gbm_bo* gbm_import(gbm_device* device, int dma_buf, std::uint32_t width, std::uint32_t height,
                          std::uint32_t stride) noexcept {
  gbm_import_fd_modifier_data data{};
  data.width = width;
  data.height = height;
  data.format = GBM_FORMAT_XRGB8888;
  data.num_fds = 1;
  data.fds[0] = dma_buf;
  data.strides[0] = static_cast<int>(stride);
  data.modifier = DRM_FORMAT_MOD_LINEAR;
  return gbm_bo_import(device, GBM_BO_IMPORT_FD_MODIFIER, &data, 0);
}

// --- Vulkan ----------------------------------------------------------------------------------------------------------

/// A device and its functions that are called.
struct GpuMemory {
  VkDevice device;
  PFN_vkCreateImage create_image;
  PFN_vkDestroyImage destroy_image;
  PFN_vkGetImageDrmFormatModifierPropertiesEXT get_modifier;
  PFN_vkGetImageSubresourceLayout get_layout;
  PFN_vkGetImageMemoryRequirements2 get_needs;
  PFN_vkAllocateMemory allocate;
  PFN_vkFreeMemory free;
  PFN_vkGetMemoryFdKHR get_fd;
  PFN_vkGetMemoryFdPropertiesKHR get_fd_properties;
  PFN_vkBindImageMemory2 bind;
};

inline GpuMemory gpu_memory(PFN_vkGetInstanceProcAddr get_instance, VkInstance instance, VkDevice device) noexcept {
  const auto get = reinterpret_cast<PFN_vkGetDeviceProcAddr>(get_instance(instance, "vkGetDeviceProcAddr"));
  return {
      .device = device,
      .create_image = reinterpret_cast<PFN_vkCreateImage>(get(device, "vkCreateImage")),
      .destroy_image = reinterpret_cast<PFN_vkDestroyImage>(get(device, "vkDestroyImage")),
      .get_modifier = reinterpret_cast<PFN_vkGetImageDrmFormatModifierPropertiesEXT>(
          get(device, "vkGetImageDrmFormatModifierPropertiesEXT")),
      .get_layout = reinterpret_cast<PFN_vkGetImageSubresourceLayout>(get(device, "vkGetImageSubresourceLayout")),
      .get_needs = reinterpret_cast<PFN_vkGetImageMemoryRequirements2>(get(device, "vkGetImageMemoryRequirements2")),
      .allocate = reinterpret_cast<PFN_vkAllocateMemory>(get(device, "vkAllocateMemory")),
      .free = reinterpret_cast<PFN_vkFreeMemory>(get(device, "vkFreeMemory")),
      .get_fd = reinterpret_cast<PFN_vkGetMemoryFdKHR>(get(device, "vkGetMemoryFdKHR")),
      .get_fd_properties = reinterpret_cast<PFN_vkGetMemoryFdPropertiesKHR>(get(device, "vkGetMemoryFdPropertiesKHR")),
      .bind = reinterpret_cast<PFN_vkBindImageMemory2>(get(device, "vkBindImageMemory2")),
  };
}

inline VkImageCreateInfo image_info(const void* next, std::uint32_t width, std::uint32_t height,
                                    VkImageUsageFlags usage) noexcept {
  VkImageCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO;
  info.pNext = next;
  info.imageType = VK_IMAGE_TYPE_2D;
  info.format = VK_FORMAT_B8G8R8A8_UNORM;
  info.extent = {width, height, 1};
  info.mipLevels = 1;
  info.arrayLayers = 1;
  info.samples = VK_SAMPLE_COUNT_1_BIT;
  info.tiling = VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT;
  info.usage = usage;
  return info;
}

inline VkMemoryRequirements needs_of(const GpuMemory& gpu, VkImage image) noexcept {
  const VkImageMemoryRequirementsInfo2 asked{VK_STRUCTURE_TYPE_IMAGE_MEMORY_REQUIREMENTS_INFO_2, nullptr, image};
  VkMemoryRequirements2 needs{};
  needs.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2;
  gpu.get_needs(gpu.device, &asked, &needs);
  return needs.memoryRequirements;
}

inline int bind(const GpuMemory& gpu, VkImage image, VkDeviceMemory memory) noexcept {
  const VkBindImageMemoryInfo info{VK_STRUCTURE_TYPE_BIND_IMAGE_MEMORY_INFO, nullptr, image, memory, 0};
  return gpu.bind(gpu.device, 1, &info);
}

// Allocates memory for the image, binds and exports it. Returns the descriptor.
inline int export_image(const GpuMemory& gpu, VkImage image, VkDeviceMemory& memory) noexcept {
  VkImageDrmFormatModifierPropertiesEXT chosen{};
  chosen.sType = VK_STRUCTURE_TYPE_IMAGE_DRM_FORMAT_MODIFIER_PROPERTIES_EXT;
  if (const VkResult asked = gpu.get_modifier(gpu.device, image, &chosen); asked != VK_SUCCESS) return asked;
  const VkImageSubresource plane{VK_IMAGE_ASPECT_MEMORY_PLANE_0_BIT_EXT, 0, 0};
  VkSubresourceLayout layout{};
  gpu.get_layout(gpu.device, image, &plane, &layout);
  const VkMemoryRequirements needs = needs_of(gpu, image);
  const VkMemoryDedicatedAllocateInfo dedicated{VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO, nullptr, image,
                                                VK_NULL_HANDLE};
  const VkExportMemoryAllocateInfo exported{VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO, &dedicated,
                                            VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  const VkMemoryAllocateInfo info{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, &exported, needs.size,
                                  static_cast<std::uint32_t>(__builtin_ctz(needs.memoryTypeBits))};
  if (const VkResult made = gpu.allocate(gpu.device, &info, nullptr, &memory); made != VK_SUCCESS) return made;
  const VkMemoryGetFdInfoKHR asked{VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR, nullptr, memory,
                                   VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  int fd = -1;
  if (const VkResult got = gpu.get_fd(gpu.device, &asked, &fd); got != VK_SUCCESS) return got;
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);  // not every driver sets it
  if (const int bound = bind(gpu, image, memory); bound != VK_SUCCESS) {
    ::close(fd);
    return bound;
  }
  return fd;
}

inline int vulkan_alloc(const GpuMemory& gpu, std::uint32_t width, std::uint32_t height,
                        VkImageUsageFlags usage) noexcept {
  const std::uint64_t linear = DRM_FORMAT_MOD_LINEAR;
  const VkImageDrmFormatModifierListCreateInfoEXT arrangement{
      VK_STRUCTURE_TYPE_IMAGE_DRM_FORMAT_MODIFIER_LIST_CREATE_INFO_EXT, nullptr, 1, &linear};
  const VkExternalMemoryImageCreateInfo external{VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMAGE_CREATE_INFO, &arrangement,
                                                 VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  const VkImageCreateInfo info = image_info(&external, width, height, usage);
  VkImage image = VK_NULL_HANDLE;
  if (const VkResult made = gpu.create_image(gpu.device, &info, nullptr, &image); made != VK_SUCCESS) return made;
  VkDeviceMemory memory = VK_NULL_HANDLE;
  const int fd = export_image(gpu, image, memory);
  gpu.destroy_image(gpu.device, image, nullptr);
  if (memory != VK_NULL_HANDLE) gpu.free(gpu.device, memory, nullptr);
  return fd;
}

/// A dma-buf that was imported as an image.
struct ImportedImage {
  VkImage image;
  VkDeviceMemory memory;
};

// Duplicates the descriptor, because Vulkan takes ownership of it.
inline int import_memory(const GpuMemory& gpu, int dma_buf, ImportedImage& result) noexcept {
  const VkMemoryRequirements needs = needs_of(gpu, result.image);
  VkMemoryFdPropertiesKHR properties{};
  properties.sType = VK_STRUCTURE_TYPE_MEMORY_FD_PROPERTIES_KHR;
  const VkResult asked =
      gpu.get_fd_properties(gpu.device, VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT, dma_buf, &properties);
  const std::uint32_t types =
      needs.memoryTypeBits & (asked == VK_SUCCESS && properties.memoryTypeBits != 0 ? properties.memoryTypeBits : ~0U);
  const VkMemoryDedicatedAllocateInfo dedicated{VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO, nullptr, result.image,
                                                VK_NULL_HANDLE};
  const VkImportMemoryFdInfoKHR import{VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR, &dedicated,
                                       VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT,
                                       ::fcntl(dma_buf, F_DUPFD_CLOEXEC, 3)};
  if (import.fd < 0) return -errno;
  const VkMemoryAllocateInfo info{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, &import, needs.size,
                                  static_cast<std::uint32_t>(__builtin_ctz(types))};
  const VkResult made = gpu.allocate(gpu.device, &info, nullptr, &result.memory);
  if (made != VK_SUCCESS) ::close(import.fd);
  return made;
}

inline void end_import(const GpuMemory& gpu, ImportedImage& image) noexcept {
  gpu.destroy_image(gpu.device, image.image, nullptr);
  if (image.memory != VK_NULL_HANDLE) gpu.free(gpu.device, image.memory, nullptr);
}

inline int vulkan_import(const GpuMemory& gpu, int dma_buf, std::uint32_t width, std::uint32_t height,
                         std::uint32_t stride, VkImageUsageFlags usage, ImportedImage& result) noexcept {
  VkSubresourceLayout plane{};
  plane.rowPitch = stride;
  const VkImageDrmFormatModifierExplicitCreateInfoEXT arrangement{
      VK_STRUCTURE_TYPE_IMAGE_DRM_FORMAT_MODIFIER_EXPLICIT_CREATE_INFO_EXT, nullptr, DRM_FORMAT_MOD_LINEAR, 1, &plane};
  const VkExternalMemoryImageCreateInfo external{VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMAGE_CREATE_INFO, &arrangement,
                                                 VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  const VkImageCreateInfo info = image_info(&external, width, height, usage);
  result = {VK_NULL_HANDLE, VK_NULL_HANDLE};
  if (const VkResult made = gpu.create_image(gpu.device, &info, nullptr, &result.image); made != VK_SUCCESS) {
    return made;
  }
  int done = import_memory(gpu, dma_buf, result);
  if (done == 0) done = bind(gpu, result.image, result.memory);
  if (done != 0) end_import(gpu, result);
  return done;
}

}  // namespace raw
