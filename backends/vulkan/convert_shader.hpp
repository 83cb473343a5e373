// The Vulkan objects of a conversion: everything that is created once, before the first frame.
#pragma once

#include "convert_math.hpp"
#include "impl.hpp"

namespace dmaflow::vulkan {

/// The pipeline with its layouts and descriptor sets, destroyed with this object; the GPU must be done.
class ConvertShader {
 public:
  /// What the shader is specialised for.
  struct Kind {
    SourceFormat source{};
    bool always_scales = false;  ///< else a second pipeline is made for frames of which only a part is visible
    bool has_overlay = false;
    VkSampler whole = VK_NULL_HANDLE;     ///< reads all planes as one image; null = they are read one by one
    std::uint32_t whole_descriptors = 1;  ///< the number that such an image takes
  };

  explicit ConvertShader(Device::Impl& device) noexcept : device_(device) {}
  ConvertShader(const ConvertShader&) = delete;
  ConvertShader& operator=(const ConvertShader&) = delete;
  ~ConvertShader();

  [[nodiscard]] Result<void> create(const Kind& kind, std::uint32_t inputs, std::uint32_t outputs);
  /// A descriptor set for one buffer, valid until this object is destroyed. @p planes: the views of the source's
  /// planes, or the one of all. @p again: a set to be written again instead of a new one; the GPU must not be using it.
  [[nodiscard]] Result<VkDescriptorSet> describe_input(std::span<const VkImageView> planes,
                                                       VkDescriptorSet again = VK_NULL_HANDLE);
  [[nodiscard]] Result<VkDescriptorSet> describe_output(VkImageView target, VkImageView overlay);

  /// @p scales: whether texels are interpolated.
  [[nodiscard]] VkPipeline pipeline(bool scales) const noexcept {
    return scales || exact_ == VK_NULL_HANDLE ? scaling_ : exact_;
  }
  [[nodiscard]] VkPipelineLayout layout() const noexcept { return layout_; }

 private:
  [[nodiscard]] Result<void> create_layouts(const Kind& kind);
  [[nodiscard]] Result<void> create_pipeline(const Kind& kind, bool scales, VkPipeline& out);
  [[nodiscard]] Result<void> create_pool(const Kind& kind, std::uint32_t inputs, std::uint32_t outputs);
  [[nodiscard]] Result<VkDescriptorSet> allocate(VkDescriptorSetLayout layout);

  Device::Impl& device_;
  bool reads_whole_ = false;
  VkDescriptorSetLayout input_layout_ = VK_NULL_HANDLE;
  VkDescriptorSetLayout output_layout_ = VK_NULL_HANDLE;
  VkPipelineLayout layout_ = VK_NULL_HANDLE;
  VkPipeline scaling_ = VK_NULL_HANDLE;
  VkPipeline exact_ = VK_NULL_HANDLE;
  VkDescriptorPool pool_ = VK_NULL_HANDLE;
};

/// A picture in the GPU's memory, uploaded once and destroyed with this object.
class OverlayImage {
 public:
  explicit OverlayImage(Device::Impl& device) noexcept : device_(device) {}
  OverlayImage(const OverlayImage&) = delete;
  OverlayImage& operator=(const OverlayImage&) = delete;
  ~OverlayImage();

  /// Waits up to @p deadline for the upload. Errors: Vulkan's own; ETIMEDOUT.
  [[nodiscard]] Result<void> create(const Picture& picture, VkCommandPool commands, Deadline deadline);
  [[nodiscard]] VkImageView view() const noexcept { return view_; }

 private:
  [[nodiscard]] Result<void> create_image(Size size);
  [[nodiscard]] Result<void> create_staging(const Picture& picture);
  [[nodiscard]] Result<void> upload(Size size, VkCommandPool commands, Deadline deadline);
  [[nodiscard]] Result<VkDeviceMemory> allocate(const VkMemoryRequirements& needs, VkMemoryPropertyFlags wanted);

  Device::Impl& device_;
  VkImage image_ = VK_NULL_HANDLE;
  VkDeviceMemory memory_ = VK_NULL_HANDLE;
  VkImageView view_ = VK_NULL_HANDLE;
  VkBuffer staging_ = VK_NULL_HANDLE;
  VkDeviceMemory staging_memory_ = VK_NULL_HANDLE;
};

/// A view of an image; the shader sees its texels' components in @p order.
[[nodiscard]] Result<VkImageView> make_view(Device::Impl& device, const Image& image, const Order& order,
                                            const VkSamplerYcbcrConversionInfo* conversion = nullptr);

/// vkWaitForFences until the deadline. Errors: ETIMEDOUT, VK_ERROR_DEVICE_LOST.
[[nodiscard]] Result<void> wait_for(Device::Impl& device, VkFence fence, Deadline deadline,
                                    const Cancel* cancel = nullptr) noexcept;

}  // namespace dmaflow::vulkan
