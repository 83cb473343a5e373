// The sampler that reads all planes of a YUV image at once.
#pragma once

#include "convert_source.hpp"

namespace dmaflow::vulkan {

/// A sampler with a Y'CbCr conversion that interpolates chroma to the wanted location and leaves the values unchanged
/// (the model RGB_IDENTITY). The shader converts the colour, with the same matrix for every sampler; the colour may
/// change from frame to frame. Must be destroyed after the shader that uses it and after its views, when the GPU is
/// done.
class YuvSampler {
 public:
  explicit YuvSampler(Device::Impl& device) noexcept : device_(device) {}
  YuvSampler(const YuvSampler&) = delete;
  YuvSampler& operator=(const YuvSampler&) = delete;
  ~YuvSampler();

  /// For images of a Reading with Sampling::sampler. Errors: Vulkan's own.
  [[nodiscard]] Result<void> create(const Reading& reading);
  [[nodiscard]] VkSampler sampler() const noexcept { return sampler_; }
  /// A view that only this sampler may read. The caller destroys it.
  [[nodiscard]] Result<VkImageView> view(const Image& image) const;

 private:
  [[nodiscard]] VkSamplerYcbcrConversionInfo use() const noexcept {
    return {.sType = VK_STRUCTURE_TYPE_SAMPLER_YCBCR_CONVERSION_INFO, .conversion = conversion_};
  }

  Device::Impl& device_;
  VkSamplerYcbcrConversion conversion_ = VK_NULL_HANDLE;
  VkSampler sampler_ = VK_NULL_HANDLE;
};

}  // namespace dmaflow::vulkan
