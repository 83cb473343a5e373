// The sampler that reads all planes of a YUV image at once.
#pragma once

#include "convert_source.hpp"

namespace dmaflow::vulkan {

/// A sampler with a Y'CbCr conversion that brings chroma to the place asked for and leaves the values as they are (the
/// model RGB_IDENTITY): colour is the shader's, with the same matrix whatever the sampler, and may change from frame to
/// frame. Goes after the shader that has it and after its views; the GPU must be done.
class YuvSampler {
 public:
  explicit YuvSampler(Device::Impl& device) noexcept : device_(device) {}
  YuvSampler(const YuvSampler&) = delete;
  YuvSampler& operator=(const YuvSampler&) = delete;
  ~YuvSampler();

  /// For images of a Reading by a sampler. Errors: Vulkan's own.
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
