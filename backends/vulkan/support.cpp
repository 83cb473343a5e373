// What the driver supports for a format: the list of its modifiers, and for each whether images of the wanted usage can
// be imported and exported as dma-bufs.
#include "impl.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>

namespace dmaflow::vulkan {
namespace {

/// The features that images for these uses must have.
VkFormatFeatureFlags needed(VkImageUsageFlags usage) noexcept {
  VkFormatFeatureFlags features = 0;
  if ((usage & VK_IMAGE_USAGE_SAMPLED_BIT) != 0) features |= VK_FORMAT_FEATURE_SAMPLED_IMAGE_BIT;
  if ((usage & VK_IMAGE_USAGE_STORAGE_BIT) != 0) features |= VK_FORMAT_FEATURE_STORAGE_IMAGE_BIT;
  if ((usage & VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT) != 0) features |= VK_FORMAT_FEATURE_COLOR_ATTACHMENT_BIT;
  if ((usage & VK_IMAGE_USAGE_TRANSFER_SRC_BIT) != 0) features |= VK_FORMAT_FEATURE_TRANSFER_SRC_BIT;
  if ((usage & VK_IMAGE_USAGE_TRANSFER_DST_BIT) != 0) features |= VK_FORMAT_FEATURE_TRANSFER_DST_BIT;
  return features;
}

/// What the driver supports for images with a modifier, or without one in its own linear tiling. nullopt if there are
/// no such images.
std::optional<FormatSupport> ask(const Device::Impl& device, VkFormat format, VkImageUsageFlags usage,
                                 std::optional<Modifier> modifier) {
  VkPhysicalDeviceImageDrmFormatModifierInfoEXT arrangement{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_IMAGE_DRM_FORMAT_MODIFIER_INFO_EXT,
      .drmFormatModifier = modifier.value_or(Modifier::linear()).value(),
      .sharingMode = VK_SHARING_MODE_EXCLUSIVE};
  const VkPhysicalDeviceExternalImageFormatInfo external{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_IMAGE_FORMAT_INFO,
      .pNext = modifier ? &arrangement : nullptr,
      .handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT};
  const VkPhysicalDeviceImageFormatInfo2 asked{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_IMAGE_FORMAT_INFO_2,
      .pNext = &external,
      .format = format,
      .type = VK_IMAGE_TYPE_2D,
      .tiling = modifier ? VK_IMAGE_TILING_DRM_FORMAT_MODIFIER_EXT : VK_IMAGE_TILING_LINEAR,
      .usage = usage};
  VkSamplerYcbcrConversionImageFormatProperties sampler{
      .sType = VK_STRUCTURE_TYPE_SAMPLER_YCBCR_CONVERSION_IMAGE_FORMAT_PROPERTIES};
  VkExternalImageFormatProperties memory{.sType = VK_STRUCTURE_TYPE_EXTERNAL_IMAGE_FORMAT_PROPERTIES,
                                         .pNext = &sampler};
  VkImageFormatProperties2 answer{.sType = VK_STRUCTURE_TYPE_IMAGE_FORMAT_PROPERTIES_2, .pNext = &memory};
  if (device.vk.GetPhysicalDeviceImageFormatProperties2(device.physical_device, &asked, &answer) != VK_SUCCESS) {
    return std::nullopt;
  }
  const auto uses = memory.externalMemoryProperties.externalMemoryFeatures;
  const auto limit = answer.imageFormatProperties.maxExtent;
  return FormatSupport{.modifier = modifier.value_or(Modifier::linear()),
                       .vk_format = format,
                       .importable = (uses & VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT) != 0,
                       .exportable = modifier && (uses & VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT) != 0,
                       .dedicated_only = (uses & VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT) != 0,
                       .max_size = {limit.width, limit.height},
                       .sampler_descriptors = std::max(1U, sampler.combinedImageSamplerDescriptorCount),
                       .own_strides = !modifier};
}

std::string names_of(const std::vector<FormatSupport>& all) {
  std::string text;
  for (const FormatSupport& one : all) {
    if (one.importable) text.append(text.empty() ? "" : " ").append(one.modifier.name());
  }
  return text.empty() ? "none" : text;
}

}  // namespace

std::vector<FormatSupport> Device::Impl::support(PixelFormat format, VkFormat vk_format,
                                                 VkImageUsageFlags usage) const {
  if (vk_format == VK_FORMAT_UNDEFINED) return {};
  VkDrmFormatModifierPropertiesListEXT list{.sType = VK_STRUCTURE_TYPE_DRM_FORMAT_MODIFIER_PROPERTIES_LIST_EXT};
  VkFormatProperties2 properties{.sType = VK_STRUCTURE_TYPE_FORMAT_PROPERTIES_2, .pNext = &list};
  vk.GetPhysicalDeviceFormatProperties2(physical_device, vk_format, &properties);
  std::vector<VkDrmFormatModifierPropertiesEXT> modifiers(list.drmFormatModifierCount);
  list.pDrmFormatModifierProperties = modifiers.data();
  vk.GetPhysicalDeviceFormatProperties2(physical_device, vk_format, &properties);
  modifiers.resize(std::min<std::size_t>(modifiers.size(), list.drmFormatModifierCount));

  std::vector<FormatSupport> found;
  for (const auto& listed : modifiers) {
    const auto modifier = Modifier::from_value(listed.drmFormatModifier);
    auto features = listed.drmFormatModifierTilingFeatures;
    if ((features & needed(usage)) != needed(usage)) continue;
    auto one = ask(*this, vk_format, usage, modifier);
    if (!one && modifier.is_linear()) {  // lavapipe lists it for NV12 but has no such images
      features = properties.formatProperties.linearTilingFeatures;
      if ((features & needed(usage)) == needed(usage)) one = ask(*this, vk_format, usage, std::nullopt);
    }
    if (!one) continue;
    one->format = format;
    one->plane_count = listed.drmFormatModifierPlaneCount;
    one->features = features;
    one->disjoint = (features & VK_FORMAT_FEATURE_DISJOINT_BIT) != 0 && !one->own_strides;
    found.push_back(*one);
  }
  return found;
}

Result<FormatSupport> Device::Impl::can_import(const Layout& layout, const ImagePlan& plan) const {
  const auto refuse = [&](int code) { return Error::os(code, "vkGetPhysicalDeviceImageFormatProperties2", name); };
  if (plan.format == VK_FORMAT_UNDEFINED) {
    return std::unexpected(
        refuse(ENOTSUP).detail("no VkFormat has the bytes of %s; single planes of it may be "
                               "imported",
                               layout.format.name().c_str()));
  }
  if (layout.modifier.is_implicit()) {
    return std::unexpected(
        refuse(EINVAL).detail("the buffer's modifier is INVALID, its arrangement not stated, and Vulkan must be told: "
                              "allocate it with a list of modifiers (LINEAR, or those of Device::support())"));
  }
  const auto all = support(layout.format, plan.format, plan.usage);
  const auto found = std::ranges::find_if(
      all, [&](const FormatSupport& one) { return one.modifier == layout.modifier && one.importable; });
  if (found == all.end()) {
    return std::unexpected(refuse(ENOTSUP).detail("%s with modifier %s cannot be imported for this use; importable: %s",
                                                  layout.format.name().c_str(), layout.modifier.name().c_str(),
                                                  names_of(all).c_str()));
  }
  if (found->max_size.width < plan.extent.width || found->max_size.height < plan.extent.height) {
    return std::unexpected(refuse(EINVAL).detail("%ux%u is larger than the device's %ux%u", plan.extent.width,
                                                 plan.extent.height, found->max_size.width, found->max_size.height));
  }
  if (found->plane_count != plan.plane_count) {
    return std::unexpected(refuse(EINVAL).detail("the device has %u memory planes for modifier %s, the buffer %u",
                                                 found->plane_count, layout.modifier.name().c_str(), plan.plane_count));
  }
  return *found;
}

}  // namespace dmaflow::vulkan
