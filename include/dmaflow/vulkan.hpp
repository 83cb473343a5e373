// Vulkan: the GPU. Imports buffers of cameras and displays as images without a copy, and allocates buffers from the
// GPU.
//
//     auto gpu = vulkan::Device::adopt({.instance = ..., .device = ..., ...});   // the program's own device, or
//     auto gpu = vulkan::Device::create();                                       // one made here
//     auto image = (*gpu)->import_image(frame.buffer(), VK_IMAGE_USAGE_SAMPLED_BIT);
//
// The Vulkan loader is not linked: a program that supplies its own device supplies vkGetInstanceProcAddr as well, and
// create() loads libvulkan.so.1 when it is called. The device needs Vulkan 1.1 and required_extensions().
//
// Fences order the accesses to an image (import_fence(), export_fence()), and barriers transfer its ownership
// (acquire(), release()): a dma-buf belongs to the "foreign" queue family whenever the GPU does not own it. See
// docs/gpu.md.
//
// Threads: import_*(), the semaphores and the queries may be called from several threads at once; the rest says so.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/attachment.hpp>
#include <dmaflow/fence.hpp>
#include <dmaflow/format.hpp>
#include <dmaflow/layout.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <vulkan/vulkan_core.h>

namespace dmaflow::vulkan {

/// Device extensions that are required. VK_KHR_image_format_list may be left out with Vulkan 1.2.
[[nodiscard]] std::span<const char* const> required_extensions() noexcept;
/// Device extensions that are used if they were enabled: foreign queue families, timelines, the device's DRM node.
[[nodiscard]] std::span<const char* const> optional_extensions() noexcept;

/// The program's own device, with what Vulkan cannot report: how it was created.
struct Existing {
  VkInstance instance = VK_NULL_HANDLE;
  VkPhysicalDevice physical_device = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  std::uint32_t queue_family = 0;  ///< with VK_QUEUE_COMPUTE_BIT
  std::uint32_t queue_index = 0;
  PFN_vkGetInstanceProcAddr get_instance_proc_addr = nullptr;
  std::span<const char* const> extensions{};  ///< the device extensions that were enabled
  bool storage_write_without_format =
      false;                         ///< VkPhysicalDeviceFeatures::shaderStorageImageWriteWithoutFormat enabled
  bool sampler_ycbcr = false;        ///< VkPhysicalDeviceSamplerYcbcrConversionFeatures enabled
  bool timeline_semaphores = false;  ///< VkPhysicalDeviceTimelineSemaphoreFeatures enabled
  /// Locked around every use of the queue; nullptr if only the thread that uses the Device uses the queue.
  std::mutex* queue_mutex = nullptr;
};

/// Which physical device create() takes. Empty fields require nothing.
struct CreateOptions {
  std::string node{};          ///< the device behind this DRM node, e.g. "/dev/dri/renderD128"
  std::string name{};          ///< a part of the device's name, upper or lower case
  bool allow_software = true;  ///< also devices that run on the CPU, after all others
  bool validation = false;  ///< with VK_LAYER_KHRONOS_validation, synchronisation included; its messages go to the log
  PFN_vkGetInstanceProcAddr get_instance_proc_addr = nullptr;  ///< nullptr: that of libvulkan.so.1
};

/// A physical device of this machine.
struct PhysicalDevice {
  std::string name;    ///< "llvmpipe (LLVM 19.1.7, 256 bits)"
  std::string driver;  ///< "llvmpipe"; empty where the driver does not say
  std::string node;    ///< its render node, or its primary one; empty where it has none or does not say
  bool is_software = false;
  std::optional<Error> refusal{};  ///< why it is not used: what it lacks, or which option it does not meet
};

/// Every physical device, in the order in which create() would try them. Errors: those of create().
[[nodiscard]] Result<std::vector<PhysicalDevice>> list(const CreateOptions& options = {});

/// The VkFormat with the same bytes, or VK_FORMAT_UNDEFINED. A format without alpha and the same format with alpha
/// share one.
[[nodiscard]] VkFormat to_vulkan(PixelFormat format) noexcept;
/// The reverse; of such a pair the format with alpha, and none ({0}) if DRM has no code for it.
[[nodiscard]] PixelFormat from_vulkan(VkFormat format) noexcept;

/// What a device can do with one format in one arrangement.
struct FormatSupport {
  PixelFormat format{};
  Modifier modifier{};
  VkFormat vk_format = VK_FORMAT_UNDEFINED;
  std::uint32_t plane_count = 0;      ///< memory planes: as many as a Layout with this modifier has
  VkFormatFeatureFlags features = 0;  ///< what such images can be used for
  bool importable = false;            ///< dma-bufs made elsewhere, for the usage asked about
  bool exportable = false;            ///< dma-bufs made here
  bool dedicated_only = false;        ///< each image needs memory of its own
  bool disjoint = false;              ///< planes may lie in several dma-bufs
  Size max_size{};
  std::uint32_t sampler_descriptors = 1;  ///< that a combined image sampler with a Y'CbCr conversion takes from a pool
  /// Offsets and strides must be those that the device chooses for its own linear images: it supports them only by
  /// tiling, not by modifier. Such images are imported and never allocated.
  bool own_strides = false;
};

/// A buffer, or one of its planes, as an image. Belongs to the buffer and is destroyed with it or with the device: keep
/// the Buffer while the GPU uses it.
struct Image {
  VkImage image = VK_NULL_HANDLE;
  VkFormat format = VK_FORMAT_UNDEFINED;
  VkExtent2D extent{};
  VkImageUsageFlags usage = 0;
};

/// One VkDevice and its queue.
class Device {
 public:
  /// Uses the caller's device, which the caller must destroy after this object, or after detach(). Errors: EINVAL (a
  /// handle or the function is missing), Vulkan's EXTENSION_NOT_PRESENT (names what was not enabled),
  /// INITIALIZATION_FAILED (a function of an enabled extension is missing).
  [[nodiscard]] static Result<std::unique_ptr<Device>> adopt(const Existing& existing);
  /// Creates a device for this program: the first that supports what is needed, real GPUs before software. Errors:
  /// ENOENT (no loader, no device at all), ENODEV (none fits: the error says why for each), those of vkCreateInstance
  /// and vkCreateDevice.
  [[nodiscard]] static Result<std::unique_ptr<Device>> create(const CreateOptions& options = {});
  /// Destroys what was made here and, if create() made it, the device. The GPU must have finished using it: stages wait
  /// for their own work when they stop.
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// Destroys everything made here, before the owner of an adopted device destroys the device. The GPU must have
  /// finished using it. Afterwards calls fail with ENODEV.
  void detach() noexcept;

  [[nodiscard]] std::string_view name() const noexcept;  ///< "llvmpipe (LLVM 19.1.7, 256 bits)"
  [[nodiscard]] std::string_view node() const noexcept;  ///< its DRM node, if it says
  [[nodiscard]] bool is_software() const noexcept;
  [[nodiscard]] VkInstance instance() const noexcept;
  [[nodiscard]] VkPhysicalDevice physical_device() const noexcept;
  [[nodiscard]] VkDevice handle() const noexcept;
  [[nodiscard]] std::uint32_t queue_family() const noexcept;
  [[nodiscard]] VkQueue queue() const noexcept;
  [[nodiscard]] PFN_vkGetInstanceProcAddr get_instance_proc_addr() const noexcept;
  /// True once a call ended with VK_ERROR_DEVICE_LOST. All waits end with that error; make a new Device.
  [[nodiscard]] bool is_lost() const noexcept;

  /// Every arrangement of @p format that images for @p usage can have; empty if there is none.
  [[nodiscard]] std::vector<FormatSupport> support(PixelFormat format, VkImageUsageFlags usage) const;

  /// The buffer as an image: all planes, in the buffer's format and modifier. Made once; later calls cost no system
  /// call. The buffer keeps its descriptors.
  /// Errors: ENOTSUP (no VkFormat has these bytes; the device cannot use or import that arrangement: lists those it
  /// can), EINVAL (an INVALID modifier: Vulkan must be told the arrangement; too large; the dma-buf is smaller than
  /// the device needs; planes in several dma-bufs if the device requires one; strides other than the device's own if it
  /// requires those, which the error names), ENODEV (detached), EMFILE, and Vulkan's own
  /// (VK_ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT for strides the GPU cannot follow).
  [[nodiscard]] Result<Image> import_image(const Buffer& buffer, VkImageUsageFlags usage);
  /// One plane of a linear buffer as a separate image: R8 and R8G8 for NV12, R8G8B8A8 with a texel for two pixels for
  /// YUYV. Works even if the device does not support YUV. Errors: as import_image().
  [[nodiscard]] Result<Image> import_plane(const Buffer& buffer, std::uint32_t plane, VkImageUsageFlags usage);
  /// A dma-buf of the buffer as plain memory. Errors: as import_image().
  [[nodiscard]] Result<VkBuffer> import_memory(const Buffer& buffer, std::uint32_t object, VkBufferUsageFlags usage);

  /// The GPU's memory. Named "vulkan". Images have the arrangement that the GPU prefers among those requested; linear
  /// images of formats that the GPU does not know are allocated as plain memory. One thread.
  [[nodiscard]] Allocator& allocator() noexcept;

  /// A binary semaphore whose payload can be passed in and out as a sync_file. The caller destroys it.
  /// Errors: ENOTSUP (the device has no such semaphores).
  [[nodiscard]] Result<VkSemaphore> create_semaphore();
  /// True if import_fence() works: otherwise wait for the fence before submitting.
  [[nodiscard]] bool imports_fences() const noexcept;
  /// True if export_fence() works: otherwise the program must wait for the work.
  [[nodiscard]] bool exports_fences() const noexcept;
  /// The next submission that waits for @p semaphore waits for @p fence (null: for nothing). Takes the fence; on an
  /// error the caller still owns it. Errors: ENOTSUP, and Vulkan's own.
  [[nodiscard]] Result<void> import_fence(Fence& fence, VkSemaphore semaphore);
  /// The work submitted to signal @p semaphore, as a fence; the semaphore is unsignalled afterwards. Only after that
  /// submission. Null if it is over already and the driver says so. Errors: ENOTSUP, EMFILE, and Vulkan's own.
  [[nodiscard]] Result<Fence> export_fence(VkSemaphore semaphore);
  /// A timeline semaphore as the drm_syncobj that it is with most drivers, for Timeline::import_fd().
  /// Errors: ENOTSUP (no timelines, or the driver's descriptor is something else, which is checked).
  [[nodiscard]] Result<Fd> export_timeline(VkSemaphore semaphore);
  /// A timeline semaphore on the drm_syncobj of Timeline::export_fd(). Takes @p fd; on an error the caller still owns
  /// it. The caller destroys the semaphore. Errors: ENOTSUP (no timelines), EINVAL (not a drm_syncobj), Vulkan's.
  [[nodiscard]] Result<VkSemaphore> import_timeline(Fd& fd);
  /// A timeline semaphore that export_timeline() takes. The caller destroys it. Errors: ENOTSUP.
  [[nodiscard]] Result<VkSemaphore> create_timeline(std::uint64_t value = 0);

  /// Acquires an image from the foreign queue family, including its contents. Record it before the first use, after the
  /// wait for the frame's fence.
  [[nodiscard]] VkImageMemoryBarrier acquire(const Image& image, VkImageLayout layout,
                                             VkAccessFlags access) const noexcept;
  /// The same for an image of which every pixel will be written: its contents are lost.
  [[nodiscard]] VkImageMemoryBarrier acquire_to_overwrite(const Image& image, VkImageLayout layout,
                                                          VkAccessFlags access) const noexcept;
  /// Releases it again. Record it after the last use; a user that waits for the fence then sees what was written.
  [[nodiscard]] VkImageMemoryBarrier release(const Image& image, VkImageLayout layout,
                                             VkAccessFlags access) const noexcept;

  struct Impl;

 private:
  friend class Convert;
  explicit Device(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::vulkan
