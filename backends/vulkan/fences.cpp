// Import and export of fences and timelines, and the barriers that transfer images to and from the GPU.
#include "impl.hpp"

#include "sys/sys.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <string_view>

namespace dmaflow::vulkan {
namespace {

constexpr auto sync_file = VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT;
constexpr auto opaque = VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_FD_BIT;

Error cannot(const char* operation, std::string_view device, const char* what) noexcept {
  return Error::os(ENOTSUP, operation, device).detail("the device %s", what);
}

/// Whether a descriptor is a drm_syncobj: its link in /proc names its type.
bool is_syncobj(int fd) noexcept {
  std::array<char, 64> link{};
  std::array<char, 64> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", fd);
  if (sys::readlink(path.data(), link.data(), link.size() - 1) < 0) return false;
  return std::string_view(link.data()).starts_with("anon_inode:syncobj");
}

VkImageMemoryBarrier barrier(const Image& image) noexcept {
  return {.sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER,
          .image = image.image,
          .subresourceRange = {.aspectMask = VK_IMAGE_ASPECT_COLOR_BIT, .levelCount = 1, .layerCount = 1}};
}

Result<VkSemaphore> make_semaphore(Device::Impl& device, const void* next) noexcept {
  const VkSemaphoreCreateInfo info{.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = next};
  VkSemaphore semaphore = VK_NULL_HANDLE;
  auto made = device.checked(device.vk.CreateSemaphore(device.device, &info, nullptr, &semaphore), "vkCreateSemaphore");
  if (!made) return std::unexpected(made.error());
  return semaphore;
}

}  // namespace

bool Device::imports_fences() const noexcept { return impl_->imports_sync_fd; }
bool Device::exports_fences() const noexcept { return impl_->exports_sync_fd; }

Result<VkSemaphore> Device::create_semaphore() {
  if (auto alive = impl_->alive("vkCreateSemaphore"); !alive) return std::unexpected(alive.error());
  if (!impl_->imports_sync_fd && !impl_->exports_sync_fd) {
    return std::unexpected(cannot("vkCreateSemaphore", impl_->name, "has no semaphores that are sync_files"));
  }
  const VkExportSemaphoreCreateInfo exported{.sType = VK_STRUCTURE_TYPE_EXPORT_SEMAPHORE_CREATE_INFO,
                                             .handleTypes = sync_file};
  return make_semaphore(*impl_, impl_->exports_sync_fd ? &exported : nullptr);
}

Result<void> Device::import_fence(Fence& fence, VkSemaphore semaphore) {
  if (auto alive = impl_->alive("vkImportSemaphoreFdKHR"); !alive) return alive;
  if (!impl_->imports_sync_fd) {
    return std::unexpected(cannot("vkImportSemaphoreFdKHR", impl_->name, "takes no sync_files: wait for the fence"));
  }
  const VkImportSemaphoreFdInfoKHR info{.sType = VK_STRUCTURE_TYPE_IMPORT_SEMAPHORE_FD_INFO_KHR,
                                        .semaphore = semaphore,
                                        .flags = VK_SEMAPHORE_IMPORT_TEMPORARY_BIT,
                                        .handleType = sync_file,
                                        .fd = fence.poll_fd()};  // -1 for a null fence: already signalled
  auto imported = impl_->checked(impl_->vk.ImportSemaphoreFdKHR(impl_->device, &info), "vkImportSemaphoreFdKHR");
  if (imported) static_cast<void>(std::move(fence).take_fd().release());  // Vulkan owns it now
  return imported;
}

Result<Fence> Device::export_fence(VkSemaphore semaphore) {
  if (auto alive = impl_->alive("vkGetSemaphoreFdKHR"); !alive) return std::unexpected(alive.error());
  if (!impl_->exports_sync_fd) {
    return std::unexpected(cannot("vkGetSemaphoreFdKHR", impl_->name, "gives no sync_files: wait for its work"));
  }
  const VkSemaphoreGetFdInfoKHR info{
      .sType = VK_STRUCTURE_TYPE_SEMAPHORE_GET_FD_INFO_KHR, .semaphore = semaphore, .handleType = sync_file};
  int fd = -1;
  auto got = impl_->checked(impl_->vk.GetSemaphoreFdKHR(impl_->device, &info, &fd), "vkGetSemaphoreFdKHR");
  if (!got) return std::unexpected(got.error());
  return Fence::adopt_unchecked(owned(fd));
}

Result<VkSemaphore> Device::create_timeline(std::uint64_t value) {
  if (auto alive = impl_->alive("vkCreateSemaphore"); !alive) return std::unexpected(alive.error());
  if (!impl_->timelines) {
    return std::unexpected(
        cannot("vkCreateSemaphore", impl_->name, "has no timeline semaphores, or none were enabled"));
  }
  const VkSemaphoreTypeCreateInfo type{.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                       .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE,
                                       .initialValue = value};
  const VkPhysicalDeviceExternalSemaphoreInfo asked{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_SEMAPHORE_INFO, .pNext = &type, .handleType = opaque};
  VkExternalSemaphoreProperties answer{.sType = VK_STRUCTURE_TYPE_EXTERNAL_SEMAPHORE_PROPERTIES};
  impl_->vk.GetPhysicalDeviceExternalSemaphoreProperties(impl_->physical_device, &asked, &answer);
  if ((answer.externalSemaphoreFeatures & VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT) == 0) {
    return std::unexpected(cannot("vkCreateSemaphore", impl_->name, "does not export timeline semaphores"));
  }
  const VkExportSemaphoreCreateInfo exported{
      .sType = VK_STRUCTURE_TYPE_EXPORT_SEMAPHORE_CREATE_INFO, .pNext = &type, .handleTypes = opaque};
  return make_semaphore(*impl_, &exported);
}

Result<Fd> Device::export_timeline(VkSemaphore semaphore) {
  if (auto alive = impl_->alive("vkGetSemaphoreFdKHR"); !alive) return std::unexpected(alive.error());
  const VkSemaphoreGetFdInfoKHR info{
      .sType = VK_STRUCTURE_TYPE_SEMAPHORE_GET_FD_INFO_KHR, .semaphore = semaphore, .handleType = opaque};
  int number = -1;
  auto got = impl_->checked(impl_->vk.GetSemaphoreFdKHR(impl_->device, &info, &number), "vkGetSemaphoreFdKHR");
  if (!got) return std::unexpected(got.error());
  Fd fd = owned(number);
  if (!is_syncobj(fd.get())) {
    return std::unexpected(cannot("vkGetSemaphoreFdKHR", impl_->name,
                                  "exports timelines as something of its own, no "
                                  "drm_syncobj: use fences"));
  }
  return fd;
}

Result<VkSemaphore> Device::import_timeline(Fd& fd) {
  if (auto alive = impl_->alive("vkImportSemaphoreFdKHR"); !alive) return std::unexpected(alive.error());
  if (!is_syncobj(fd.get())) {
    return std::unexpected(
        Error::os(EINVAL, "vkImportSemaphoreFdKHR", impl_->name).detail("descriptor %d is no drm_syncobj", fd.get()));
  }
  // A driver whose own timelines are not drm_syncobjs would misinterpret the descriptor, so this is tested first.
  auto own = create_timeline();
  if (!own) return own;
  auto kind = export_timeline(*own);
  if (!kind) {
    impl_->vk.DestroySemaphore(impl_->device, *own, nullptr);
    return std::unexpected(kind.error());
  }
  const VkImportSemaphoreFdInfoKHR info{.sType = VK_STRUCTURE_TYPE_IMPORT_SEMAPHORE_FD_INFO_KHR,
                                        .semaphore = *own,
                                        .flags = 0,
                                        .handleType = opaque,
                                        .fd = fd.get()};
  auto imported = impl_->checked(impl_->vk.ImportSemaphoreFdKHR(impl_->device, &info), "vkImportSemaphoreFdKHR");
  if (!imported) {
    impl_->vk.DestroySemaphore(impl_->device, *own, nullptr);
    return std::unexpected(imported.error());
  }
  static_cast<void>(fd.release());  // Vulkan owns it now
  return own;
}

VkImageMemoryBarrier Device::acquire(const Image& image, VkImageLayout layout, VkAccessFlags access) const noexcept {
  VkImageMemoryBarrier taken = barrier(image);
  taken.dstAccessMask = access;
  taken.oldLayout = VK_IMAGE_LAYOUT_GENERAL;  // the layout in which external users leave it
  taken.newLayout = layout;
  taken.srcQueueFamilyIndex = impl_->outside();
  taken.dstQueueFamilyIndex = impl_->queue_family;
  return taken;
}

VkImageMemoryBarrier Device::acquire_to_overwrite(const Image& image, VkImageLayout layout,
                                                  VkAccessFlags access) const noexcept {
  VkImageMemoryBarrier taken = barrier(image);
  taken.dstAccessMask = access;
  taken.oldLayout = VK_IMAGE_LAYOUT_UNDEFINED;  // the contents are discarded, so no ownership transfer is needed
  taken.newLayout = layout;
  taken.srcQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED;
  taken.dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED;
  return taken;
}

VkImageMemoryBarrier Device::release(const Image& image, VkImageLayout layout, VkAccessFlags access) const noexcept {
  VkImageMemoryBarrier given = barrier(image);
  given.srcAccessMask = access;
  given.oldLayout = layout;
  given.newLayout = VK_IMAGE_LAYOUT_GENERAL;
  given.srcQueueFamilyIndex = impl_->queue_family;
  given.dstQueueFamilyIndex = impl_->outside();
  return given;
}

}  // namespace dmaflow::vulkan
