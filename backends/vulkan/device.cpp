#include "allocator.hpp"
#include "impl.hpp"

#include "sys/sys.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>

namespace dmaflow::vulkan {
namespace {

constexpr std::array required{VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME, VK_EXT_EXTERNAL_MEMORY_DMA_BUF_EXTENSION_NAME,
                              VK_KHR_IMAGE_FORMAT_LIST_EXTENSION_NAME, VK_EXT_IMAGE_DRM_FORMAT_MODIFIER_EXTENSION_NAME,
                              VK_KHR_EXTERNAL_SEMAPHORE_FD_EXTENSION_NAME};
constexpr std::array optional{VK_EXT_QUEUE_FAMILY_FOREIGN_EXTENSION_NAME, VK_EXT_PHYSICAL_DEVICE_DRM_EXTENSION_NAME,
                              VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME};

bool has(std::span<const char* const> extensions, const char* name) noexcept {
  return std::ranges::any_of(extensions, [name](const char* one) { return std::strcmp(one, name) == 0; });
}

std::string node_path(std::int64_t minor) {
  const bool is_render = minor >= 128;
  return (is_render ? "/dev/dri/renderD" : "/dev/dri/card") + std::to_string(minor);
}

}  // namespace

std::span<const char* const> required_extensions() noexcept { return required; }
std::span<const char* const> optional_extensions() noexcept { return optional; }

std::string drm_node(const VkPhysicalDeviceDrmPropertiesEXT& drm) {
  if (drm.hasRender == VK_TRUE) return node_path(drm.renderMinor);
  return drm.hasPrimary == VK_TRUE ? node_path(drm.primaryMinor) : std::string();
}

Fd owned(int fd) noexcept {
  if (fd >= 0) sys::fcntl(fd, F_SETFD, FD_CLOEXEC);
  return Fd::adopt(fd);
}

Device::Impl::Impl() = default;
Device::Impl::~Impl() {
  tear_down();
  if (!owns_device) return;
  if (owned_device != VK_NULL_HANDLE && vk.DestroyDevice != nullptr) vk.DestroyDevice(owned_device, nullptr);
  destroy_messenger(get_instance_proc_addr, instance, validation);
  if (vk.DestroyInstance != nullptr) vk.DestroyInstance(instance, nullptr);
}

Error Device::Impl::error(VkResult result, const char* operation) noexcept {
  if (result == VK_ERROR_DEVICE_LOST) lost.store(true, std::memory_order_relaxed);
  return Error::vulkan(result, operation, name);
}

Result<void> Device::Impl::not_alive(const char* operation) const noexcept {
  if (device == VK_NULL_HANDLE) {
    return std::unexpected(Error::os(ENODEV, operation, name).detail("the device was detached"));
  }
  return std::unexpected(
      Error::vulkan(VK_ERROR_DEVICE_LOST, operation, name).detail("make a new device and import the buffers there"));
}

Result<void> Device::Impl::prepare(const Existing& existing) {
  instance = existing.instance;
  physical_device = existing.physical_device;
  get_instance_proc_addr = existing.get_instance_proc_addr;
  queue_family = existing.queue_family;
  if (existing.queue_mutex != nullptr) queue_mutex = existing.queue_mutex;
  if (auto loaded = vk.load_instance(get_instance_proc_addr, instance); !loaded) return loaded;

  const bool knows_node = has(existing.extensions, VK_EXT_PHYSICAL_DEVICE_DRM_EXTENSION_NAME);
  VkPhysicalDeviceDrmPropertiesEXT drm{.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRM_PROPERTIES_EXT};
  VkPhysicalDeviceProperties2 properties{.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                         .pNext = knows_node ? &drm : nullptr};
  vk.GetPhysicalDeviceProperties2(physical_device, &properties);
  name = properties.properties.deviceName;
  if (knows_node) node = drm_node(drm);
  is_software = properties.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
  max_image = properties.properties.limits.maxImageDimension2D;
  vk.GetPhysicalDeviceMemoryProperties(physical_device, &memory);
  // Part of Vulkan 1.2, so programs need not name it there.
  const bool has_format_lists = properties.properties.apiVersion >= VK_API_VERSION_1_2;
  for (const char* extension : required) {
    if (has(existing.extensions, extension)) continue;
    if (has_format_lists && std::strcmp(extension, VK_KHR_IMAGE_FORMAT_LIST_EXTENSION_NAME) == 0) continue;
    return std::unexpected(
        error(VK_ERROR_EXTENSION_NOT_PRESENT, "vkCreateDevice").detail("the device was created without %s", extension));
  }

  std::uint32_t families = 0;
  vk.GetPhysicalDeviceQueueFamilyProperties(physical_device, &families, nullptr);
  std::vector<VkQueueFamilyProperties> family(families);
  vk.GetPhysicalDeviceQueueFamilyProperties(physical_device, &families, family.data());
  if (queue_family >= families || (family[queue_family].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) {
    return std::unexpected(Error::os(EINVAL, "vulkan::Device::adopt", name)
                               .detail("queue family %u of %u has no VK_QUEUE_COMPUTE_BIT", queue_family, families));
  }
  if (family[queue_family].timestampValidBits != 0) timestamp_period = properties.properties.limits.timestampPeriod;

  if (auto loaded = vk.load_device(existing.device); !loaded)
    return std::unexpected(Error(loaded.error()).device(name));
  device = existing.device;
  vk.GetDeviceQueue(device, queue_family, existing.queue_index, &queue);
  foreign_queue = has(existing.extensions, VK_EXT_QUEUE_FAMILY_FOREIGN_EXTENSION_NAME);
  storage_write_without_format = existing.storage_write_without_format;
  sampler_ycbcr = existing.sampler_ycbcr;
  timelines = existing.timeline_semaphores;

  const VkPhysicalDeviceExternalSemaphoreInfo asked{.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_SEMAPHORE_INFO,
                                                    .handleType = VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT};
  VkExternalSemaphoreProperties answer{.sType = VK_STRUCTURE_TYPE_EXTERNAL_SEMAPHORE_PROPERTIES};
  vk.GetPhysicalDeviceExternalSemaphoreProperties(physical_device, &asked, &answer);
  imports_sync_fd = (answer.externalSemaphoreFeatures & VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT) != 0;
  exports_sync_fd = (answer.externalSemaphoreFeatures & VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT) != 0;

  allocator = std::make_unique<MemoryAllocator>(*this);
  return {};
}

Result<void> Device::Impl::submit(const VkSubmitInfo& info, VkFence fence) noexcept {
  const std::lock_guard lock(*queue_mutex);
  return checked(vk.QueueSubmit(queue, 1, &info, fence), "vkQueueSubmit");
}

void Device::Impl::tear_down() noexcept {
  const std::lock_guard lock(import_mutex);  // no import may be under way
  domain->detach();
  device = VK_NULL_HANDLE;
}

Device::Device(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Device::~Device() = default;

Result<std::unique_ptr<Device>> Device::adopt(const Existing& existing) {
  const auto missing = [](const char* what) {
    return std::unexpected(Error::os(EINVAL, "vulkan::Device::adopt").detail("no %s was given", what));
  };
  if (existing.get_instance_proc_addr == nullptr) return missing("vkGetInstanceProcAddr");
  if (existing.instance == VK_NULL_HANDLE) return missing("VkInstance");
  if (existing.physical_device == VK_NULL_HANDLE) return missing("VkPhysicalDevice");
  if (existing.device == VK_NULL_HANDLE) return missing("VkDevice");
  auto impl = std::make_unique<Impl>();
  if (auto prepared = impl->prepare(existing); !prepared) return std::unexpected(prepared.error());
  return std::unique_ptr<Device>(new Device(std::move(impl)));  // private constructor
}

void Device::detach() noexcept { impl_->tear_down(); }

std::string_view Device::name() const noexcept { return impl_->name; }
std::string_view Device::node() const noexcept { return impl_->node; }
bool Device::is_software() const noexcept { return impl_->is_software; }
VkInstance Device::instance() const noexcept { return impl_->instance; }
VkPhysicalDevice Device::physical_device() const noexcept { return impl_->physical_device; }
VkDevice Device::handle() const noexcept { return impl_->device; }
std::uint32_t Device::queue_family() const noexcept { return impl_->queue_family; }
VkQueue Device::queue() const noexcept { return impl_->queue; }
PFN_vkGetInstanceProcAddr Device::get_instance_proc_addr() const noexcept { return impl_->get_instance_proc_addr; }
bool Device::is_lost() const noexcept { return impl_->lost.load(std::memory_order_relaxed); }
Allocator& Device::allocator() noexcept { return *impl_->allocator; }

std::vector<FormatSupport> Device::support(PixelFormat format, VkImageUsageFlags usage) const {
  if (impl_->device == VK_NULL_HANDLE) return {};
  return impl_->support(format, to_vulkan(format), usage);
}

}  // namespace dmaflow::vulkan
