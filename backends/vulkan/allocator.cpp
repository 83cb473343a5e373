#include "allocator.hpp"

#include "impl.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow::vulkan {
namespace {

constexpr VkImageUsageFlags copies = VK_IMAGE_USAGE_TRANSFER_SRC_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT;
/// The usages to try for an image, the most useful first: drivers choose the memory arrangement by the usage.
constexpr std::array<VkImageUsageFlags, 3> uses{
    VK_IMAGE_USAGE_SAMPLED_BIT | VK_IMAGE_USAGE_STORAGE_BIT | copies,
    VK_IMAGE_USAGE_SAMPLED_BIT | VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT | copies,
    VK_IMAGE_USAGE_SAMPLED_BIT | copies,
};

/// The modifiers that the request accepts and the device can export, in the request's order.
std::vector<std::uint64_t> acceptable(const Request& request, const std::vector<FormatSupport>& support) {
  std::vector<std::uint64_t> modifiers;
  for (const Modifier wanted : request.modifiers) {
    const auto fits = [&](const FormatSupport& one) {
      return one.modifier == wanted && one.exportable && one.max_size.width >= request.size.width &&
             one.max_size.height >= request.size.height;
    };
    if (std::ranges::any_of(support, fits)) modifiers.push_back(wanted.value());
  }
  return modifiers;
}

bool accepts_linear(const Request& request) {
  return std::ranges::find(request.modifiers, Modifier::linear()) != request.modifiers.end();
}

bool is_multiple(std::uint64_t value, std::uint32_t of) { return of <= 1 || value % of == 0; }

/// Checks what the driver chose against what was requested.
Result<void> meets(const Layout& layout, std::uint64_t bytes, const Constraints& wanted, std::string_view device) {
  const auto refuse = [&] { return Error::os(EINVAL, "vkCreateImage", device); };
  for (std::uint32_t p = 0; p < layout.plane_count; ++p) {
    const PlaneLayout& plane = layout.planes[p];
    if (!is_multiple(plane.stride, wanted.stride_alignment) || plane.stride < wanted.min_stride[p]) {
      return std::unexpected(
          refuse().detail("the device makes rows of %u bytes; wanted are %u or more, a multiple of %u", plane.stride,
                          wanted.min_stride[p], std::max(1U, wanted.stride_alignment)));
    }
    if (!is_multiple(plane.offset, wanted.offset_alignment)) {
      return std::unexpected(refuse().detail("the device puts plane %u at %u; wanted is a multiple of %u", p,
                                             plane.offset, wanted.offset_alignment));
    }
  }
  if (bytes < wanted.min_object_size[0] || !is_multiple(bytes, wanted.size_alignment)) {
    return std::unexpected(refuse().detail("the device makes %llu bytes; wanted are %llu or more, a multiple of %u",
                                           static_cast<unsigned long long>(bytes),
                                           static_cast<unsigned long long>(wanted.min_object_size[0]),
                                           std::max(1U, wanted.size_alignment)));
  }
  return {};
}

}  // namespace

Result<std::vector<Buffer>> MemoryAllocator::allocate(const Request& request) {
  if (auto alive = device_.alive("allocate"); !alive) return std::unexpected(alive.error());
  if (auto checked = check_request(request, device_.name); !checked) return std::unexpected(checked.error());
  if (request.constraints.contiguous) {
    return std::unexpected(
        Error::os(EINVAL, "allocate", device_.name).detail("Vulkan does not say whether memory is contiguous"));
  }
  std::vector<Buffer> buffers;
  buffers.reserve(request.count);
  auto first = allocate_image(request);
  const bool as_image = first.has_value();
  if (!as_image) {
    if (!accepts_linear(request)) return std::unexpected(first.error());
    auto plain = allocate_memory(request);
    if (!plain) return std::unexpected(plain.error());
    first = std::move(plain);
  }
  buffers.push_back(std::move(*first));
  while (buffers.size() < request.count) {
    auto next = as_image ? allocate_image(request) : allocate_memory(request);
    if (!next) return std::unexpected(next.error());
    if (next->layout() != buffers.front().layout()) {
      return std::unexpected(Error::os(EIO, "vkCreateImage", device_.name)
                                 .detail("the driver made like images unlike: %s, then %s",
                                         buffers.front().layout().describe().c_str(),
                                         next->layout().describe().c_str()));
    }
    buffers.push_back(std::move(*next));
  }
  return buffers;
}

Result<Buffer> MemoryAllocator::allocate_image(const Request& request) {
  const VkFormat format = to_vulkan(request.format);
  std::vector<std::uint64_t> modifiers;
  VkImageUsageFlags usage = 0;
  for (std::size_t i = 0; i < uses.size() && modifiers.empty(); ++i) {
    usage = uses[i];
    modifiers = acceptable(request, device_.support(request.format, format, usage));
  }
  if (modifiers.empty() || request.constraints.separate_objects) {
    return std::unexpected(Error::os(EINVAL, "vkGetPhysicalDeviceImageFormatProperties2", device_.name)
                               .detail("none of the %zu modifiers accepted for %ux%u %s can be exported",
                                       request.modifiers.size(), request.size.width, request.size.height,
                                       request.format.name().c_str()));
  }
  const VkImageDrmFormatModifierListCreateInfoEXT arrangement{
      .sType = VK_STRUCTURE_TYPE_IMAGE_DRM_FORMAT_MODIFIER_LIST_CREATE_INFO_EXT,
      .drmFormatModifierCount = static_cast<std::uint32_t>(modifiers.size()),
      .pDrmFormatModifiers = modifiers.data()};
  const VkExternalMemoryImageCreateInfo external{.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMAGE_CREATE_INFO,
                                                 .pNext = &arrangement,
                                                 .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  const VkImageCreateInfo info{.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                               .pNext = &external,
                               .imageType = VK_IMAGE_TYPE_2D,
                               .format = format,
                               .extent = {request.size.width, request.size.height, 1},
                               .mipLevels = 1,
                               .arrayLayers = 1,
                               .samples = VK_SAMPLE_COUNT_1_BIT,
                               .tiling = VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT,
                               .usage = usage,
                               .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
                               .initialLayout = VK_IMAGE_LAYOUT_UNDEFINED};
  VkImage image = VK_NULL_HANDLE;
  if (auto made = device_.checked(device_.vk.CreateImage(device_.device, &info, nullptr, &image), "vkCreateImage");
      !made) {
    return std::unexpected(made.error());
  }
  auto buffer = export_image(request, usage, image);
  device_.vk.DestroyImage(device_.device, image, nullptr);
  return buffer;
}

Result<Buffer> MemoryAllocator::export_image(const Request& request, VkImageUsageFlags usage, VkImage image) {
  const Functions& vk = device_.vk;
  VkImageDrmFormatModifierPropertiesEXT chosen{.sType = VK_STRUCTURE_TYPE_IMAGE_DRM_FORMAT_MODIFIER_PROPERTIES_EXT};
  if (auto asked = device_.checked(vk.GetImageDrmFormatModifierPropertiesEXT(device_.device, image, &chosen),
                                   "vkGetImageDrmFormatModifierPropertiesEXT");
      !asked) {
    return std::unexpected(asked.error());
  }
  const auto modifier = Modifier::from_value(chosen.drmFormatModifier);
  const auto all = device_.support(request.format, to_vulkan(request.format), usage);
  const auto known = std::ranges::find(all, modifier, &FormatSupport::modifier);
  if (known == all.end() || known->plane_count == 0 || known->plane_count > max_planes) {
    return std::unexpected(Error::os(EIO, "vkGetImageDrmFormatModifierPropertiesEXT", device_.name)
                               .detail("the driver chose %s, which it does not list", modifier.name().c_str()));
  }
  Layout layout{.size = request.size, .format = request.format, .modifier = modifier};
  layout.plane_count = known->plane_count;
  for (std::uint32_t p = 0; p < layout.plane_count; ++p) {
    const VkImageSubresource plane{.aspectMask = static_cast<VkImageAspectFlags>(VK_IMAGE_ASPECT_MEMORY_PLANE_0_BIT_EXT)
                                                 << p};
    VkSubresourceLayout where{};
    vk.GetImageSubresourceLayout(device_.device, image, &plane, &where);
    if (where.offset > UINT32_MAX || where.rowPitch > UINT32_MAX) {
      return std::unexpected(Error::os(EOVERFLOW, "vkGetImageSubresourceLayout", device_.name));
    }
    layout.planes[p] = {.object = 0,
                        .offset = static_cast<std::uint32_t>(where.offset),
                        .stride = static_cast<std::uint32_t>(where.rowPitch)};
  }
  const VkImageMemoryRequirementsInfo2 wanted{.sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_REQUIREMENTS_INFO_2,
                                              .image = image};
  VkMemoryRequirements2 needs{.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2};
  vk.GetImageMemoryRequirements2(device_.device, &wanted, &needs);
  if (modifier.is_vendor()) layout.opaque_bytes = needs.memoryRequirements.size;
  if (auto met = meets(layout, needs.memoryRequirements.size, request.constraints, device_.name); !met) {
    return std::unexpected(met.error());
  }
  const VkMemoryDedicatedAllocateInfo dedicated{.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                                                .image = image};
  VkDeviceMemory memory = VK_NULL_HANDLE;
  auto fd = allocate_and_export(needs.memoryRequirements, &dedicated, memory);
  Result<void> bound;
  if (fd) {  // bound, because drivers may arrange the memory only then
    const VkBindImageMemoryInfo bind{
        .sType = VK_STRUCTURE_TYPE_BIND_IMAGE_MEMORY_INFO, .image = image, .memory = memory, .memoryOffset = 0};
    bound = device_.checked(vk.BindImageMemory2(device_.device, 1, &bind), "vkBindImageMemory2");
  }
  if (memory != VK_NULL_HANDLE) vk.FreeMemory(device_.device, memory, nullptr);
  if (!fd) return std::unexpected(fd.error());
  if (!bound) return std::unexpected(bound.error());
  return Buffer::create(layout, *fd, {.is_protected = false, .origin = "vulkan"});
}

Result<Fd> MemoryAllocator::allocate_and_export(const VkMemoryRequirements& needs, const void* dedicated,
                                                VkDeviceMemory& memory) {
  const VkExportMemoryAllocateInfo exported{.sType = VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO,
                                            .pNext = dedicated,
                                            .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  Error refused = Error::os(ENOTSUP, "vkAllocateMemory", device_.name).detail("no memory type suits");
  for (const std::uint32_t type : device_.memory_types(needs.memoryTypeBits)) {
    const VkMemoryAllocateInfo info{.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                    .pNext = &exported,
                                    .allocationSize = needs.size,
                                    .memoryTypeIndex = type};
    const VkResult result = device_.vk.AllocateMemory(device_.device, &info, nullptr, &memory);
    if (result != VK_SUCCESS) {
      memory = VK_NULL_HANDLE;
      refused = device_.error(result, "vkAllocateMemory");
      continue;
    }
    const VkMemoryGetFdInfoKHR wanted{.sType = VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR,
                                      .memory = memory,
                                      .handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
    int fd = -1;
    auto got = device_.checked(device_.vk.GetMemoryFdKHR(device_.device, &wanted, &fd), "vkGetMemoryFdKHR");
    if (!got) return std::unexpected(got.error());
    return owned(fd);
  }
  return std::unexpected(refused);
}

Result<Fd> MemoryAllocator::allocate_bytes(std::uint64_t bytes) {
  const Functions& vk = device_.vk;
  const VkExternalMemoryBufferCreateInfo external{.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
                                                  .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  const VkBufferCreateInfo info{
      .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
      .pNext = &external,
      .size = bytes,
      .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
      .sharingMode = VK_SHARING_MODE_EXCLUSIVE};
  VkBuffer buffer = VK_NULL_HANDLE;
  if (auto made = device_.checked(vk.CreateBuffer(device_.device, &info, nullptr, &buffer), "vkCreateBuffer"); !made) {
    return std::unexpected(made.error());
  }
  const VkBufferMemoryRequirementsInfo2 wanted{.sType = VK_STRUCTURE_TYPE_BUFFER_MEMORY_REQUIREMENTS_INFO_2,
                                               .buffer = buffer};
  VkMemoryRequirements2 needs{.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2};
  vk.GetBufferMemoryRequirements2(device_.device, &wanted, &needs);
  const VkMemoryDedicatedAllocateInfo dedicated{.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                                                .buffer = buffer};
  VkDeviceMemory memory = VK_NULL_HANDLE;
  auto fd = allocate_and_export(needs.memoryRequirements, &dedicated, memory);
  vk.DestroyBuffer(device_.device, buffer, nullptr);
  if (memory != VK_NULL_HANDLE) vk.FreeMemory(device_.device, memory, nullptr);
  return fd;
}

Result<Buffer> MemoryAllocator::allocate_memory(const Request& request) {
  auto layout = linear_layout(request, device_.name);
  if (!layout) return std::unexpected(layout.error());
  const auto sizes = layout->object_sizes(request.constraints);
  std::array<Fd, max_planes> objects;
  const std::uint32_t count = layout->object_count();
  for (std::uint32_t i = 0; i < count; ++i) {
    auto fd = allocate_bytes(sizes[i]);
    if (!fd) return std::unexpected(fd.error());
    objects[i] = std::move(*fd);
  }
  return Buffer::create(*layout, std::span(objects.data(), count), {.is_protected = false, .origin = "vulkan"});
}

}  // namespace dmaflow::vulkan
