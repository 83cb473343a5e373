#include "convert_sampler.hpp"

#include "convert_shader.hpp"

namespace dmaflow::vulkan {
namespace {

/// The location of chroma between luma: @p wanted, which is that of MPEG-2 and H.264, or else what the device supports.
VkChromaLocation location(VkFormatFeatureFlags features, VkChromaLocation wanted) noexcept {
  const bool can_cosited = (features & VK_FORMAT_FEATURE_COSITED_CHROMA_SAMPLES_BIT) != 0;
  const bool can_midpoint = (features & VK_FORMAT_FEATURE_MIDPOINT_CHROMA_SAMPLES_BIT) != 0;
  if (!can_cosited) return VK_CHROMA_LOCATION_MIDPOINT;
  return can_midpoint ? wanted : VK_CHROMA_LOCATION_COSITED_EVEN;
}

VkFilter filter(VkFormatFeatureFlags features) noexcept {
  constexpr VkFormatFeatureFlags needed = VK_FORMAT_FEATURE_SAMPLED_IMAGE_FILTER_LINEAR_BIT |
                                          VK_FORMAT_FEATURE_SAMPLED_IMAGE_YCBCR_CONVERSION_LINEAR_FILTER_BIT;
  return (features & needed) == needed ? VK_FILTER_LINEAR : VK_FILTER_NEAREST;
}

}  // namespace

YuvSampler::~YuvSampler() {
  const Functions& vk = device_.vk;
  VkDevice device = device_.device;
  if (device == VK_NULL_HANDLE) return;  // detached: destroyed by the device's owner
  vk.DestroySampler(device, sampler_, nullptr);
  vk.DestroySamplerYcbcrConversion(device, conversion_, nullptr);
}

Result<void> YuvSampler::create(const Reading& reading) {
  const VkFormatFeatureFlags features = reading.whole.features;
  const bool swap = reading.is_cr_first;
  const VkFilter between = filter(features);
  // With cosited chroma, every other pixel would have two nearest samples, on the columns to its left and right.
  const bool nearest = between == VK_FILTER_NEAREST;
  const VkSamplerYcbcrConversionCreateInfo conversion{
      .sType = VK_STRUCTURE_TYPE_SAMPLER_YCBCR_CONVERSION_CREATE_INFO,
      .format = reading.whole.vk_format,
      .ycbcrModel = VK_SAMPLER_YCBCR_MODEL_CONVERSION_RGB_IDENTITY,
      .ycbcrRange = VK_SAMPLER_YCBCR_RANGE_ITU_FULL,  // has no effect with this model
      .components = {.r = swap ? VK_COMPONENT_SWIZZLE_B : VK_COMPONENT_SWIZZLE_IDENTITY,
                     .b = swap ? VK_COMPONENT_SWIZZLE_R : VK_COMPONENT_SWIZZLE_IDENTITY},
      .xChromaOffset = location(features, nearest ? VK_CHROMA_LOCATION_MIDPOINT : VK_CHROMA_LOCATION_COSITED_EVEN),
      .yChromaOffset = location(features, VK_CHROMA_LOCATION_MIDPOINT),
      .chromaFilter = between,
      .forceExplicitReconstruction = VK_FALSE};
  if (auto made =
          device_.checked(device_.vk.CreateSamplerYcbcrConversion(device_.device, &conversion, nullptr, &conversion_),
                          "vkCreateSamplerYcbcrConversion");
      !made) {
    return made;
  }
  const VkSamplerYcbcrConversionInfo with = use();
  const VkSamplerCreateInfo sampler{.sType = VK_STRUCTURE_TYPE_SAMPLER_CREATE_INFO,
                                    .pNext = &with,
                                    .magFilter = between,  // one that differs from chroma's needs a separate feature
                                    .minFilter = between,
                                    .mipmapMode = VK_SAMPLER_MIPMAP_MODE_NEAREST,
                                    .addressModeU = VK_SAMPLER_ADDRESS_MODE_CLAMP_TO_EDGE,
                                    .addressModeV = VK_SAMPLER_ADDRESS_MODE_CLAMP_TO_EDGE,
                                    .addressModeW = VK_SAMPLER_ADDRESS_MODE_CLAMP_TO_EDGE};
  return device_.checked(device_.vk.CreateSampler(device_.device, &sampler, nullptr, &sampler_), "vkCreateSampler");
}

Result<VkImageView> YuvSampler::view(const Image& image) const {
  const VkSamplerYcbcrConversionInfo with = use();
  return make_view(device_, image, {0, 1, 2, 3}, &with);
}

}  // namespace dmaflow::vulkan
