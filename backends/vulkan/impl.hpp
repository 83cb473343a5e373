// What the parts of the Vulkan backend share: the device's state and the imported forms of a buffer.
#pragma once

#include "functions.hpp"

#include <dmaflow/vulkan.hpp>

#include <atomic>
#include <deque>

namespace dmaflow::vulkan {

class MemoryAllocator;

/// The path of the device's render node, "/dev/dri/renderD128"; its primary node if it has no other; empty if it has
/// none.
[[nodiscard]] std::string drm_node(const VkPhysicalDeviceDrmPropertiesEXT& drm);
/// Destroys the messenger that create() made; 0 = none.
void destroy_messenger(PFN_vkGetInstanceProcAddr get, VkInstance instance, VkDebugUtilsMessengerEXT messenger) noexcept;

/// Owns a descriptor that Vulkan made, or -1, and sets CLOEXEC: some drivers (lavapipe) do not.
[[nodiscard]] Fd owned(int fd) noexcept;

/// Imported memory and the object created on it. Plain handles: destroyed by Device::Impl.
struct Imported {
  std::uint32_t first_plane = 0;
  std::uint32_t plane_count = 0;     // 0 = a VkBuffer on an object, whose index is first_plane
  Image image{};                     // either an image
  VkBuffer buffer = VK_NULL_HANDLE;  // or a buffer
  VkBufferUsageFlags buffer_usage = 0;
  std::array<VkDeviceMemory, max_planes> memory{};
  std::uint32_t memory_count = 0;
};

/// Where an image's planes lie in a buffer.
struct ImagePlan {
  VkFormat format = VK_FORMAT_UNDEFINED;
  VkExtent2D extent{};
  std::uint32_t first_plane = 0;
  std::uint32_t plane_count = 1;
  VkImageUsageFlags usage = 0;
};

struct Device::Impl {
  Functions vk;
  VkInstance instance = VK_NULL_HANDLE;
  VkPhysicalDevice physical_device = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;  // null once detached
  VkQueue queue = VK_NULL_HANDLE;
  std::uint32_t queue_family = 0;
  PFN_vkGetInstanceProcAddr get_instance_proc_addr = nullptr;
  bool owns_device = false;  // and the instance
  VkDevice owned_device = VK_NULL_HANDLE;
  VkDebugUtilsMessengerEXT validation = VK_NULL_HANDLE;  // if create() made one

  std::string name;
  std::string node;
  bool is_software = false;
  bool storage_write_without_format = false;
  bool sampler_ycbcr = false;
  bool timelines = false;
  bool foreign_queue = false;
  bool imports_sync_fd = false;
  bool exports_sync_fd = false;
  std::uint32_t max_image = 0;  // pixels
  float timestamp_period = 0;   // nanoseconds per tick; 0 = the queue has no timestamps
  VkPhysicalDeviceMemoryProperties memory{};

  std::mutex own_queue_mutex;
  std::mutex* queue_mutex = &own_queue_mutex;
  std::atomic<bool> lost{false};

  std::shared_ptr<AttachmentDomain> domain = AttachmentDomain::create();
  std::mutex import_mutex;  // taken before the domain's
  std::unique_ptr<MemoryAllocator> allocator;

  Impl();
  ~Impl();

  /// Fetches functions and properties for the handles above.
  [[nodiscard]] Result<void> prepare(const Existing& existing);
  /// The error of a failed call; records a lost device.
  [[nodiscard]] Error error(VkResult result, const char* operation) noexcept;
  /// Positive results (VK_INCOMPLETE, VK_TIMEOUT) are no errors here: the caller checks them.
  [[nodiscard]] Result<void> checked(VkResult result, const char* operation) noexcept {
    if (result >= 0) return {};
    return std::unexpected(error(result, operation));
  }
  /// Errors: ENODEV (detached), VK_ERROR_DEVICE_LOST.
  [[nodiscard]] Result<void> alive(const char* operation) const noexcept {
    if (device == VK_NULL_HANDLE || lost.load(std::memory_order_relaxed)) [[unlikely]]
      return not_alive(operation);
    return {};
  }
  [[gnu::cold]] [[nodiscard]] Result<void> not_alive(const char* operation) const noexcept;

  /// The queue family that a dma-buf outside the GPU belongs to.
  [[nodiscard]] std::uint32_t outside() const noexcept {
    return foreign_queue ? VK_QUEUE_FAMILY_FOREIGN_EXT : VK_QUEUE_FAMILY_EXTERNAL;
  }

  [[nodiscard]] std::vector<FormatSupport> support(PixelFormat format, VkFormat vk_format,
                                                   VkImageUsageFlags usage) const;
  /// A plane of a linear layout as an image of its own.
  [[nodiscard]] Result<ImagePlan> plan_plane(const Layout& layout, std::uint32_t plane, VkImageUsageFlags usage) const;
  /// What the device supports for the arrangement. Errors: those of Device::import_image() that do not depend on a
  /// buffer.
  [[nodiscard]] Result<FormatSupport> can_import(const Layout& layout, const ImagePlan& plan) const;

  [[nodiscard]] Result<Imported*> import(const Buffer& buffer, const ImagePlan& plan);
  [[nodiscard]] Result<Imported> make_image(const Buffer& buffer, const ImagePlan& plan);
  /// For images in the device's own linear tiling: checks that its offsets and strides are the layout's.
  [[nodiscard]] Result<void> has_own_strides(const Layout& layout, const ImagePlan& plan, VkImage image) const;
  [[nodiscard]] Result<void> bind_image(const Buffer& buffer, const ImagePlan& plan, bool disjoint, Imported& made);
  [[nodiscard]] Result<Imported> make_buffer(const Buffer& buffer, std::uint32_t object, VkBufferUsageFlags usage);
  [[nodiscard]] Result<void> check_object(const Buffer& buffer, std::uint32_t object) const noexcept;
  [[nodiscard]] Result<VkDeviceMemory> import_object(const Buffer& buffer, std::uint32_t object,
                                                     const VkMemoryRequirements& needs, const void* dedicated);
  void destroy(Imported& imported) const noexcept;

  /// The memory types in @p bits in the order to try them: device-local ones first.
  [[nodiscard]] std::vector<std::uint32_t> memory_types(std::uint32_t bits) const;

  [[nodiscard]] Result<void> submit(const VkSubmitInfo& info, VkFence fence) noexcept;

  void tear_down() noexcept;
};

}  // namespace dmaflow::vulkan
