// Imports buffers as images and as memory of the GPU. All imported forms of a buffer are kept on it, in one attachment.
#include "impl.hpp"

#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow::vulkan {
namespace {

/// Everything that this device made of one buffer. Guarded by Device::Impl::import_mutex while it grows.
class Imports final : public Attachment {
 public:
  explicit Imports(Device::Impl& device) : device_(device) {}
  void tear_down() noexcept override {
    for (Imported& one : forms) device_.destroy(one);
    forms.clear();
  }
  std::deque<Imported> forms;  // grows without moving its elements

 private:
  Device::Impl& device_;
};

VkImageAspectFlagBits memory_plane(std::uint32_t plane) noexcept {
  return static_cast<VkImageAspectFlagBits>(VK_IMAGE_ASPECT_MEMORY_PLANE_0_BIT_EXT << plane);
}

/// The format of a single plane, read as samples without meaning.
VkFormat plane_format(const FormatInfo& info, std::uint32_t plane) noexcept {
  if (info.plane_count == 1 && !info.is_yuv) return to_vulkan(info.format);
  const PlaneInfo& one = info.planes[plane];
  const bool is_wide = info.bits_per_component > 8;
  switch (one.block_bytes) {
    case 1:
      return VK_FORMAT_R8_UNORM;
    case 2:
      return is_wide ? VK_FORMAT_R16_UNORM : VK_FORMAT_R8G8_UNORM;
    case 4:  // two wide chroma samples, or a pair of pixels
      return is_wide ? VK_FORMAT_R16G16_UNORM : VK_FORMAT_R8G8B8A8_UNORM;
    case 8:
      return is_wide ? VK_FORMAT_R16G16B16A16_UNORM : VK_FORMAT_UNDEFINED;
    default:
      return VK_FORMAT_UNDEFINED;
  }
}

std::uint32_t divide_up(std::uint32_t value, std::uint32_t by) noexcept { return (value + by - 1) / by; }

bool in_one_object(const Layout& layout, const ImagePlan& plan) noexcept {
  const auto* const first = &layout.planes[plan.first_plane];
  return std::all_of(first, first + plan.plane_count, [&](const PlaneLayout& p) { return p.object == first->object; });
}

}  // namespace

std::vector<std::uint32_t> Device::Impl::memory_types(std::uint32_t bits) const {
  std::vector<std::uint32_t> types;
  for (const bool own : {true, false}) {
    for (std::uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
      const bool is_own = (memory.memoryTypes[i].propertyFlags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT) != 0;
      if ((bits & (1U << i)) != 0 && is_own == own) types.push_back(i);
    }
  }
  return types;
}

/// Whether the descriptor is still a dma-buf: some drivers (lavapipe) map whatever they get.
Result<void> Device::Impl::check_object(const Buffer& buffer, std::uint32_t object) const noexcept {
  const int is_dma_buf = sys::is_dma_buf(buffer.fd(object));
  if (is_dma_buf == 1) return {};
  return std::unexpected(
      Error::os(is_dma_buf < 0 ? -is_dma_buf : EINVAL, "fstatfs", name)
          .detail("descriptor %d, dma-buf %u of the buffer, %s: somebody closed it or put another file there",
                  buffer.fd(object), object, is_dma_buf < 0 ? "is not open" : "is not a dma-buf"));
}

// Vulkan takes ownership of the descriptor only if vkAllocateMemory succeeds, so each attempt has its own.
Result<VkDeviceMemory> Device::Impl::import_object(const Buffer& buffer, std::uint32_t object,
                                                   const VkMemoryRequirements& needs, const void* dedicated) {
  if (needs.size > buffer.size(object)) {
    return std::unexpected(Error::os(EINVAL, "vkAllocateMemory", name)
                               .detail("the device needs %llu bytes for this image, the dma-buf has %llu: allocate it "
                                       "with padding (Constraints::size_alignment), or by the device itself",
                                       static_cast<unsigned long long>(needs.size),
                                       static_cast<unsigned long long>(buffer.size(object))));
  }
  if (auto checked = check_object(buffer, object); !checked) return std::unexpected(checked.error());
  VkMemoryFdPropertiesKHR properties{.sType = VK_STRUCTURE_TYPE_MEMORY_FD_PROPERTIES_KHR};
  const VkResult asked = vk.GetMemoryFdPropertiesKHR(device, VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT,
                                                     buffer.fd(object), &properties);
  if (asked == VK_ERROR_DEVICE_LOST) return std::unexpected(error(asked, "vkGetMemoryFdPropertiesKHR"));
  // Some drivers (lavapipe) report none but can import: then only the image's memory types count.
  const bool told = asked == VK_SUCCESS && properties.memoryTypeBits != 0;
  const std::uint32_t bits = needs.memoryTypeBits & (told ? properties.memoryTypeBits : ~0U);
  Error refused = Error::os(ENOTSUP, "vkGetMemoryFdPropertiesKHR", name)
                      .detail("no memory type suits both the dma-buf (of %.*s, types 0x%x) and the image (0x%x)",
                              static_cast<int>(buffer.origin().size()), buffer.origin().data(),
                              properties.memoryTypeBits, needs.memoryTypeBits);
  for (const std::uint32_t type : memory_types(bits)) {
    auto fd = Fd::dup_of(buffer.fd(object));
    if (!fd) return std::unexpected(Error(fd.error()).device(name));
    const VkImportMemoryFdInfoKHR import{.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR,
                                         .pNext = dedicated,
                                         .handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT,
                                         .fd = fd->get()};
    const VkMemoryAllocateInfo info{.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                    .pNext = &import,
                                    .allocationSize = needs.size,
                                    .memoryTypeIndex = type};
    VkDeviceMemory made = VK_NULL_HANDLE;
    const VkResult result = vk.AllocateMemory(device, &info, nullptr, &made);
    if (result == VK_SUCCESS) {
      static_cast<void>(fd->release());
      return made;
    }
    refused = error(result, "vkAllocateMemory")
                  .detail("a dma-buf of %.*s", static_cast<int>(buffer.origin().size()), buffer.origin().data());
  }
  return std::unexpected(refused);
}

Result<void> Device::Impl::bind_image(const Buffer& buffer, const ImagePlan& plan, bool disjoint, Imported& made) {
  const Layout& layout = buffer.layout();
  const std::uint32_t parts = disjoint ? plan.plane_count : 1;
  std::array<VkBindImagePlaneMemoryInfo, max_planes> plane_infos{};
  std::array<VkBindImageMemoryInfo, max_planes> binds{};
  for (std::uint32_t i = 0; i < parts; ++i) {
    const VkImagePlaneMemoryRequirementsInfo which{.sType = VK_STRUCTURE_TYPE_IMAGE_PLANE_MEMORY_REQUIREMENTS_INFO,
                                                   .planeAspect = memory_plane(i)};
    const VkImageMemoryRequirementsInfo2 asked{.sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_REQUIREMENTS_INFO_2,
                                               .pNext = disjoint ? &which : nullptr,
                                               .image = made.image.image};
    VkMemoryRequirements2 needs{.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2};
    vk.GetImageMemoryRequirements2(device, &asked, &needs);
    const VkMemoryDedicatedAllocateInfo dedicated{.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                                                  .image = made.image.image};
    auto object = import_object(buffer, layout.planes[plan.first_plane + i].object, needs.memoryRequirements,
                                disjoint ? nullptr : &dedicated);  // with several memories, dedicated is not allowed
    if (!object) return std::unexpected(object.error());
    made.memory[made.memory_count++] = *object;
    plane_infos[i] = {.sType = VK_STRUCTURE_TYPE_BIND_IMAGE_PLANE_MEMORY_INFO, .planeAspect = memory_plane(i)};
    binds[i] = {.sType = VK_STRUCTURE_TYPE_BIND_IMAGE_MEMORY_INFO,
                .pNext = disjoint ? &plane_infos[i] : nullptr,
                .image = made.image.image,
                .memory = *object,
                .memoryOffset = 0};
  }
  return checked(vk.BindImageMemory2(device, parts, binds.data()), "vkBindImageMemory2");
}

Result<void> Device::Impl::has_own_strides(const Layout& layout, const ImagePlan& plan, VkImage image) const {
  for (std::uint32_t i = 0; i < plan.plane_count; ++i) {
    const auto aspect = plan.plane_count == 1 ? VkImageAspectFlags{VK_IMAGE_ASPECT_COLOR_BIT}
                                              : VkImageAspectFlags{VK_IMAGE_ASPECT_PLANE_0_BIT} << i;
    const VkImageSubresource which{.aspectMask = aspect};
    VkSubresourceLayout own{};
    vk.GetImageSubresourceLayout(device, image, &which, &own);
    const PlaneLayout& plane = layout.planes[plan.first_plane + i];
    if (own.offset == plane.offset && own.rowPitch == plane.stride) continue;
    return std::unexpected(
        Error::os(EINVAL, "vkGetImageSubresourceLayout", name)
            .detail("the device has plane %u at %llu with rows of %llu bytes and cannot follow %u with "
                    "rows of %u",
                    i, static_cast<unsigned long long>(own.offset), static_cast<unsigned long long>(own.rowPitch),
                    plane.offset, plane.stride));
  }
  return {};
}

Result<Imported> Device::Impl::make_image(const Buffer& buffer, const ImagePlan& plan) {
  const Layout& layout = buffer.layout();
  auto known = can_import(layout, plan);
  if (!known) return std::unexpected(known.error());
  const bool disjoint = !in_one_object(layout, plan);
  if (disjoint && !known->disjoint) {
    return std::unexpected(Error::os(EINVAL, "vkCreateImage", name)
                               .detail("the planes lie in %u dma-bufs and the device wants them in one: allocate the "
                                       "buffer so, or import the planes one by one",
                                       buffer.object_count()));
  }
  std::array<VkSubresourceLayout, max_planes> planes{};
  for (std::uint32_t i = 0; i < plan.plane_count; ++i) {
    const PlaneLayout& plane = layout.planes[plan.first_plane + i];
    planes[i] = {.offset = plane.offset, .size = 0, .rowPitch = plane.stride, .arrayPitch = 0, .depthPitch = 0};
  }
  const VkImageDrmFormatModifierExplicitCreateInfoEXT arrangement{
      .sType = VK_STRUCTURE_TYPE_IMAGE_DRM_FORMAT_MODIFIER_EXPLICIT_CREATE_INFO_EXT,
      .drmFormatModifier = layout.modifier.value(),
      .drmFormatModifierPlaneCount = plan.plane_count,
      .pPlaneLayouts = planes.data()};
  const bool by_tiling = known->own_strides;
  const VkExternalMemoryImageCreateInfo external{.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMAGE_CREATE_INFO,
                                                 .pNext = by_tiling ? nullptr : &arrangement,
                                                 .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  const VkImageCreateInfo info{.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                               .pNext = &external,
                               .flags = disjoint ? VkImageCreateFlags{VK_IMAGE_CREATE_DISJOINT_BIT} : 0,
                               .imageType = VK_IMAGE_TYPE_2D,
                               .format = plan.format,
                               .extent = {plan.extent.width, plan.extent.height, 1},
                               .mipLevels = 1,
                               .arrayLayers = 1,
                               .samples = VK_SAMPLE_COUNT_1_BIT,
                               .tiling = by_tiling ? VK_IMAGE_TILING_LINEAR : VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT,
                               .usage = plan.usage,
                               .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
                               .initialLayout = VK_IMAGE_LAYOUT_UNDEFINED};
  Imported made{.first_plane = plan.first_plane, .plane_count = plan.plane_count};
  if (auto created = checked(vk.CreateImage(device, &info, nullptr, &made.image.image), "vkCreateImage"); !created) {
    return std::unexpected(created.error().detail("%s", layout.describe().c_str()));
  }
  made.image.format = plan.format;
  made.image.extent = plan.extent;
  made.image.usage = plan.usage;
  auto bound = bind_image(buffer, plan, disjoint, made);
  if (bound && by_tiling) bound = has_own_strides(layout, plan, made.image.image);  // lavapipe knows after binding
  if (!bound) {
    destroy(made);
    return std::unexpected(bound.error());
  }
  return made;
}

Result<Imported> Device::Impl::make_buffer(const Buffer& buffer, std::uint32_t object, VkBufferUsageFlags usage) {
  const VkPhysicalDeviceExternalBufferInfo asked{.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_BUFFER_INFO,
                                                 .usage = usage,
                                                 .handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  VkExternalBufferProperties answer{.sType = VK_STRUCTURE_TYPE_EXTERNAL_BUFFER_PROPERTIES};
  vk.GetPhysicalDeviceExternalBufferProperties(physical_device, &asked, &answer);
  const auto uses = answer.externalMemoryProperties.externalMemoryFeatures;
  if ((uses & VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT) == 0) {
    return std::unexpected(Error::os(ENOTSUP, "vkGetPhysicalDeviceExternalBufferProperties", name)
                               .detail("the device imports no dma-buf as memory for this use (0x%x)", usage));
  }
  const VkExternalMemoryBufferCreateInfo external{.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
                                                  .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  const VkBufferCreateInfo info{.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                .pNext = &external,
                                .size = buffer.size(object),
                                .usage = usage,
                                .sharingMode = VK_SHARING_MODE_EXCLUSIVE};
  Imported made{.first_plane = object, .plane_count = 0, .buffer_usage = usage};
  if (auto created = checked(vk.CreateBuffer(device, &info, nullptr, &made.buffer), "vkCreateBuffer"); !created) {
    return std::unexpected(created.error());
  }
  const VkBufferMemoryRequirementsInfo2 wanted{.sType = VK_STRUCTURE_TYPE_BUFFER_MEMORY_REQUIREMENTS_INFO_2,
                                               .buffer = made.buffer};
  VkMemoryRequirements2 needs{.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2};
  vk.GetBufferMemoryRequirements2(device, &wanted, &needs);
  const VkMemoryDedicatedAllocateInfo dedicated{.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                                                .buffer = made.buffer};
  const bool alone = (uses & VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT) != 0;
  auto memory_of = import_object(buffer, object, needs.memoryRequirements, alone ? &dedicated : nullptr);
  Result<void> bound = memory_of ? Result<void>() : std::unexpected(memory_of.error());
  if (memory_of) {
    made.memory[made.memory_count++] = *memory_of;
    const VkBindBufferMemoryInfo bind{
        .sType = VK_STRUCTURE_TYPE_BIND_BUFFER_MEMORY_INFO, .buffer = made.buffer, .memory = *memory_of};
    bound = checked(vk.BindBufferMemory2(device, 1, &bind), "vkBindBufferMemory2");
  }
  if (!bound) {
    destroy(made);
    return std::unexpected(bound.error());
  }
  return made;
}

void Device::Impl::destroy(Imported& imported) const noexcept {
  if (imported.image.image != VK_NULL_HANDLE) vk.DestroyImage(device, imported.image.image, nullptr);
  if (imported.buffer != VK_NULL_HANDLE) vk.DestroyBuffer(device, imported.buffer, nullptr);
  for (std::uint32_t i = 0; i < imported.memory_count; ++i) vk.FreeMemory(device, imported.memory[i], nullptr);
  imported = {};
}

namespace {

/// An existing form that can do what is asked, or nullptr.
template <typename Fits>
Imported* find(Imports* imports, const Fits& fits) {
  if (imports == nullptr) return nullptr;
  const auto found = std::ranges::find_if(imports->forms, fits);
  return found == imports->forms.end() ? nullptr : &*found;
}

/// Finds a form or makes it, under the lock.
template <typename Fits, typename Make>
Result<Imported*> find_or_make(Device::Impl& device, const Buffer& buffer, const char* operation, const Fits& fits,
                               const Make& make) {
  const std::lock_guard lock(device.import_mutex);
  if (auto alive = device.alive(operation); !alive) return std::unexpected(alive.error());
  auto* imports = attachment_as<Imports>(buffer, *device.domain);
  if (Imported* known = find(imports, fits)) return known;
  Result<Imported> made = make();
  if (!made) return std::unexpected(made.error());
  if (imports == nullptr) {
    auto attached = buffer.attach(device.domain, std::make_unique<Imports>(device));
    if (!attached) {
      device.destroy(*made);
      return std::unexpected(Error(attached.error()).device(device.name));
    }
    imports = static_cast<Imports*>(*attached);
  }
  return &imports->forms.emplace_back(*made);
}

}  // namespace

Result<Imported*> Device::Impl::import(const Buffer& buffer, const ImagePlan& plan) {
  const auto fits = [&](const Imported& one) {
    return one.image.image != VK_NULL_HANDLE && one.first_plane == plan.first_plane &&
           one.plane_count == plan.plane_count && one.image.format == plan.format &&
           (one.image.usage & plan.usage) == plan.usage;
  };
  return find_or_make(*this, buffer, "vulkan::Device::import_image", fits, [&] { return make_image(buffer, plan); });
}

Result<Image> Device::import_image(const Buffer& buffer, VkImageUsageFlags usage) {
  const Layout& layout = buffer.layout();
  auto imported = impl_->import(buffer, {.format = to_vulkan(layout.format),
                                         .extent = {layout.size.width, layout.size.height},
                                         .first_plane = 0,
                                         .plane_count = layout.plane_count,
                                         .usage = usage});
  if (!imported) return std::unexpected(imported.error());
  return (*imported)->image;
}

Result<ImagePlan> Device::Impl::plan_plane(const Layout& layout, std::uint32_t plane, VkImageUsageFlags usage) const {
  const FormatInfo* info = format_info(layout.format);
  if (info == nullptr || info->is_opaque || plane >= layout.plane_count || plane >= info->plane_count) {
    return std::unexpected(Error::os(EINVAL, "vulkan::Device::import_plane", name)
                               .detail("%s has no plane %u of pixels", layout.format.name().c_str(), plane));
  }
  if (!layout.modifier.is_linear() && (info->plane_count > 1 || info->is_yuv)) {
    return std::unexpected(Error::os(EINVAL, "vulkan::Device::import_plane", name)
                               .detail("the planes of a buffer with modifier %s have no meaning one by one",
                                       layout.modifier.name().c_str()));
  }
  const PlaneInfo& one = info->planes[plane];
  return ImagePlan{.format = plane_format(*info, plane),
                   .extent = {divide_up(layout.size.width, std::uint32_t{one.horizontal_sub} * one.block_width),
                              divide_up(layout.size.height, one.vertical_sub)},
                   .first_plane = plane,
                   .plane_count = 1,
                   .usage = usage};
}

Result<Image> Device::import_plane(const Buffer& buffer, std::uint32_t plane, VkImageUsageFlags usage) {
  auto plan = impl_->plan_plane(buffer.layout(), plane, usage);
  if (!plan) return std::unexpected(plan.error());
  auto imported = impl_->import(buffer, *plan);
  if (!imported) return std::unexpected(imported.error());
  return (*imported)->image;
}

Result<VkBuffer> Device::import_memory(const Buffer& buffer, std::uint32_t object, VkBufferUsageFlags usage) {
  if (object >= buffer.object_count()) {
    return std::unexpected(Error::os(EINVAL, "vulkan::Device::import_memory", impl_->name)
                               .detail("object %u of %u", object, buffer.object_count()));
  }
  const auto fits = [&](const Imported& one) {
    return one.buffer != VK_NULL_HANDLE && one.first_plane == object && (one.buffer_usage & usage) == usage;
  };
  auto imported = find_or_make(*impl_, buffer, "vulkan::Device::import_memory", fits,
                               [&] { return impl_->make_buffer(buffer, object, usage); });
  if (!imported) return std::unexpected(imported.error());
  return (*imported)->buffer;
}

}  // namespace dmaflow::vulkan
