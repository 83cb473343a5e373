#include "convert_shader.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace dmaflow::vulkan {
namespace {

constexpr std::uint32_t planes_spirv[] = {
#include "convert.spv.inc"
};

constexpr std::uint32_t whole_spirv[] = {
#include "convert_whole.spv.inc"
};

constexpr std::uint32_t planes_bound = 3;

}  // namespace

ConvertShader::~ConvertShader() {
  const Functions& vk = device_.vk;
  VkDevice device = device_.device;
  if (device == VK_NULL_HANDLE) return;  // detached: destroyed by the device's owner
  vk.DestroyDescriptorPool(device, pool_, nullptr);
  vk.DestroyPipeline(device, scaling_, nullptr);
  vk.DestroyPipeline(device, exact_, nullptr);
  vk.DestroyPipelineLayout(device, layout_, nullptr);
  vk.DestroyDescriptorSetLayout(device, output_layout_, nullptr);
  vk.DestroyDescriptorSetLayout(device, input_layout_, nullptr);
}

Result<void> ConvertShader::create(const Kind& kind, std::uint32_t inputs, std::uint32_t outputs) {
  reads_whole_ = kind.whole != VK_NULL_HANDLE;
  if (auto made = create_layouts(kind); !made) return made;
  if (auto made = create_pipeline(kind, true, scaling_); !made) return made;
  if (!kind.always_scales) {
    if (auto made = create_pipeline(kind, false, exact_); !made) return made;
  }
  return create_pool(kind, inputs, outputs);
}

Result<void> ConvertShader::create_layouts(const Kind& kind) {
  const auto make = [this](std::span<const VkDescriptorSetLayoutBinding> bindings, VkDescriptorSetLayout& out) {
    const VkDescriptorSetLayoutCreateInfo info{.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                               .bindingCount = static_cast<std::uint32_t>(bindings.size()),
                                               .pBindings = bindings.data()};
    return device_.checked(device_.vk.CreateDescriptorSetLayout(device_.device, &info, nullptr, &out),
                           "vkCreateDescriptorSetLayout");
  };
  const auto binding = [](std::uint32_t number, VkDescriptorType type) {
    return VkDescriptorSetLayoutBinding{
        .binding = number, .descriptorType = type, .descriptorCount = 1, .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
  };
  const std::array planes{binding(0, VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE), binding(1, VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE),
                          binding(2, VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE)};
  std::array whole{binding(0, VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER)};
  whole[0].pImmutableSamplers = &kind.whole;  // the pipeline must know a conversion
  const std::array output{binding(0, VK_DESCRIPTOR_TYPE_STORAGE_IMAGE), binding(1, VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE)};
  if (auto made = reads_whole_ ? make(whole, input_layout_) : make(planes, input_layout_); !made) return made;
  if (auto made = make(output, output_layout_); !made) return made;
  const std::array sets{input_layout_, output_layout_};
  const VkPushConstantRange push{.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .offset = 0, .size = sizeof(Parameters)};
  const VkPipelineLayoutCreateInfo info{.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                        .setLayoutCount = static_cast<std::uint32_t>(sets.size()),
                                        .pSetLayouts = sets.data(),
                                        .pushConstantRangeCount = 1,
                                        .pPushConstantRanges = &push};
  return device_.checked(device_.vk.CreatePipelineLayout(device_.device, &info, nullptr, &layout_),
                         "vkCreatePipelineLayout");
}

Result<void> ConvertShader::create_pipeline(const Kind& kind, bool scales, VkPipeline& out) {
  const Functions& vk = device_.vk;
  using Code = std::span<const std::uint32_t>;
  const Code spirv = reads_whole_ ? Code(whole_spirv) : Code(planes_spirv);
  const VkShaderModuleCreateInfo code{
      .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = spirv.size_bytes(), .pCode = spirv.data()};
  VkShaderModule module = VK_NULL_HANDLE;
  if (auto made =
          device_.checked(vk.CreateShaderModule(device_.device, &code, nullptr, &module), "vkCreateShaderModule");
      !made) {
    return made;
  }
  struct Constants {
    std::int32_t kind;
    std::int32_t across;
    std::int32_t down;
    VkBool32 scales;
    VkBool32 overlay;
  };
  const Constants constants{.kind = static_cast<std::int32_t>(kind.source.kind),
                            .across = static_cast<std::int32_t>(kind.source.chroma_across),
                            .down = static_cast<std::int32_t>(kind.source.chroma_down),
                            .scales = scales ? VK_TRUE : VK_FALSE,
                            .overlay = kind.has_overlay ? VK_TRUE : VK_FALSE};
  std::array<VkSpecializationMapEntry, 5> entries{};
  for (std::uint32_t i = 0; i < entries.size(); ++i) entries[i] = {.constantID = i, .offset = 4 * i, .size = 4};
  const VkSpecializationInfo specialised{.mapEntryCount = static_cast<std::uint32_t>(entries.size()),
                                         .pMapEntries = entries.data(),
                                         .dataSize = sizeof constants,
                                         .pData = &constants};
  const VkComputePipelineCreateInfo info{.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
                                         .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                                                   .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                                                   .module = module,
                                                   .pName = "main",
                                                   .pSpecializationInfo = &specialised},
                                         .layout = layout_};
  const VkResult result = vk.CreateComputePipelines(device_.device, VK_NULL_HANDLE, 1, &info, nullptr, &out);
  vk.DestroyShaderModule(device_.device, module, nullptr);
  return device_.checked(result, "vkCreateComputePipelines");
}

Result<void> ConvertShader::create_pool(const Kind& kind, std::uint32_t inputs, std::uint32_t outputs) {
  const auto some = [](VkDescriptorType type, std::uint32_t count) {
    return VkDescriptorPoolSize{.type = type, .descriptorCount = count};
  };
  const std::array sizes{some(VK_DESCRIPTOR_TYPE_STORAGE_IMAGE, outputs),
                         some(VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE, (reads_whole_ ? 0 : planes_bound * inputs) + outputs),
                         some(VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER, kind.whole_descriptors * inputs)};
  const std::uint32_t kinds = reads_whole_ ? 3 : 2;
  const VkDescriptorPoolCreateInfo info{.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                        .maxSets = inputs + outputs,
                                        .poolSizeCount = kinds,
                                        .pPoolSizes = sizes.data()};
  return device_.checked(device_.vk.CreateDescriptorPool(device_.device, &info, nullptr, &pool_),
                         "vkCreateDescriptorPool");
}

Result<VkDescriptorSet> ConvertShader::allocate(VkDescriptorSetLayout layout) {
  const VkDescriptorSetAllocateInfo info{.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                         .descriptorPool = pool_,
                                         .descriptorSetCount = 1,
                                         .pSetLayouts = &layout};
  VkDescriptorSet set = VK_NULL_HANDLE;
  auto made =
      device_.checked(device_.vk.AllocateDescriptorSets(device_.device, &info, &set), "vkAllocateDescriptorSets");
  if (!made) return std::unexpected(made.error());
  return set;
}

Result<VkDescriptorSet> ConvertShader::describe_input(std::span<const VkImageView> planes, VkDescriptorSet again) {
  auto set = again != VK_NULL_HANDLE ? Result<VkDescriptorSet>(again) : allocate(input_layout_);
  if (!set) return set;
  std::array<VkDescriptorImageInfo, planes_bound> images{};
  std::array<VkWriteDescriptorSet, planes_bound> writes{};
  const std::uint32_t bound = reads_whole_ ? 1 : planes_bound;
  for (std::uint32_t i = 0; i < bound; ++i) {  // missing planes are never read, but must be bound
    images[i] = {.imageView = planes[i < planes.size() ? i : 0],
                 .imageLayout = VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL};
    writes[i] = {
        .sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
        .dstSet = *set,
        .dstBinding = i,
        .descriptorCount = 1,
        .descriptorType = reads_whole_ ? VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER : VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE,
        .pImageInfo = &images[i]};
  }
  device_.vk.UpdateDescriptorSets(device_.device, bound, writes.data(), 0, nullptr);
  return set;
}

Result<VkDescriptorSet> ConvertShader::describe_output(VkImageView target, VkImageView overlay) {
  auto set = allocate(output_layout_);
  if (!set) return set;
  const std::array images{
      VkDescriptorImageInfo{.imageView = target, .imageLayout = VK_IMAGE_LAYOUT_GENERAL},
      VkDescriptorImageInfo{.imageView = overlay, .imageLayout = VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL}};
  const auto write = [&](std::uint32_t binding, VkDescriptorType type) {
    return VkWriteDescriptorSet{.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                .dstSet = *set,
                                .dstBinding = binding,
                                .descriptorCount = 1,
                                .descriptorType = type,
                                .pImageInfo = &images[binding]};
  };
  const std::array writes{write(0, VK_DESCRIPTOR_TYPE_STORAGE_IMAGE), write(1, VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE)};
  device_.vk.UpdateDescriptorSets(device_.device, static_cast<std::uint32_t>(writes.size()), writes.data(), 0, nullptr);
  return set;
}

Result<VkImageView> make_view(Device::Impl& device, const Image& image, const Order& order,
                              const VkSamplerYcbcrConversionInfo* conversion) {
  constexpr std::array swizzles{VK_COMPONENT_SWIZZLE_R, VK_COMPONENT_SWIZZLE_G, VK_COMPONENT_SWIZZLE_B,
                                VK_COMPONENT_SWIZZLE_A, VK_COMPONENT_SWIZZLE_ONE};
  const bool plain = order == Order{0, 1, 2, 3};  // storage images allow no other
  const auto from = [&](std::size_t i) { return plain ? VK_COMPONENT_SWIZZLE_IDENTITY : swizzles[order[i]]; };
  const VkImageViewCreateInfo info{
      .sType = VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO,
      .pNext = conversion,
      .image = image.image,
      .viewType = VK_IMAGE_VIEW_TYPE_2D,
      .format = image.format,
      .components = {.r = from(0), .g = from(1), .b = from(2), .a = from(3)},
      .subresourceRange = {.aspectMask = VK_IMAGE_ASPECT_COLOR_BIT, .levelCount = 1, .layerCount = 1}};
  VkImageView view = VK_NULL_HANDLE;
  auto made = device.checked(device.vk.CreateImageView(device.device, &info, nullptr, &view), "vkCreateImageView");
  if (!made) return std::unexpected(made.error());
  return view;
}

// Vulkan cannot wait for a fence and a descriptor at once: with a Cancel, this waits in short intervals.
Result<void> wait_for(Device::Impl& device, VkFence fence, Deadline deadline, const Cancel* cancel) noexcept {
  constexpr std::chrono::nanoseconds stretch = std::chrono::milliseconds(10);
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.remaining());
    const auto now = cancel != nullptr ? std::min(left, stretch) : left;
    const VkResult result =
        device.vk.WaitForFences(device.device, 1, &fence, VK_TRUE, static_cast<std::uint64_t>(now.count()));
    if (result != VK_TIMEOUT) return device.checked(result, "vkWaitForFences");
    if (cancel != nullptr && cancel->is_set()) {
      return std::unexpected(Error::os(ECANCELED, "vkWaitForFences", device.name));
    }
    if (now == left) {
      return std::unexpected(Error::os(ETIMEDOUT, "vkWaitForFences", device.name).detail("the GPU is still at work"));
    }
  }
}

OverlayImage::~OverlayImage() {
  const Functions& vk = device_.vk;
  VkDevice device = device_.device;
  if (device == VK_NULL_HANDLE) return;
  vk.DestroyBuffer(device, staging_, nullptr);
  vk.FreeMemory(device, staging_memory_, nullptr);
  vk.DestroyImageView(device, view_, nullptr);
  vk.DestroyImage(device, image_, nullptr);
  vk.FreeMemory(device, memory_, nullptr);
}

Result<VkDeviceMemory> OverlayImage::allocate(const VkMemoryRequirements& needs, VkMemoryPropertyFlags wanted) {
  Error refused = Error::os(ENOTSUP, "vkAllocateMemory", device_.name).detail("no memory type suits the overlay");
  for (const std::uint32_t type : device_.memory_types(needs.memoryTypeBits)) {
    if ((device_.memory.memoryTypes[type].propertyFlags & wanted) != wanted) continue;
    const VkMemoryAllocateInfo info{
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .allocationSize = needs.size, .memoryTypeIndex = type};
    VkDeviceMemory memory = VK_NULL_HANDLE;
    const VkResult result = device_.vk.AllocateMemory(device_.device, &info, nullptr, &memory);
    if (result == VK_SUCCESS) return memory;
    refused = device_.error(result, "vkAllocateMemory");
  }
  return std::unexpected(refused);
}

Result<void> OverlayImage::create_image(Size size) {
  const Functions& vk = device_.vk;
  const VkImageCreateInfo info{.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                               .imageType = VK_IMAGE_TYPE_2D,
                               .format = VK_FORMAT_R8G8B8A8_UNORM,
                               .extent = {size.width, size.height, 1},
                               .mipLevels = 1,
                               .arrayLayers = 1,
                               .samples = VK_SAMPLE_COUNT_1_BIT,
                               .tiling = VK_IMAGE_TILING_OPTIMAL,
                               .usage = VK_IMAGE_USAGE_SAMPLED_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT,
                               .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
                               .initialLayout = VK_IMAGE_LAYOUT_UNDEFINED};
  if (auto made = device_.checked(vk.CreateImage(device_.device, &info, nullptr, &image_), "vkCreateImage"); !made) {
    return made;
  }
  const VkImageMemoryRequirementsInfo2 asked{.sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_REQUIREMENTS_INFO_2,
                                             .image = image_};
  VkMemoryRequirements2 needs{.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2};
  vk.GetImageMemoryRequirements2(device_.device, &asked, &needs);
  auto memory = allocate(needs.memoryRequirements, 0);
  if (!memory) return std::unexpected(memory.error());
  memory_ = *memory;
  const VkBindImageMemoryInfo bind{
      .sType = VK_STRUCTURE_TYPE_BIND_IMAGE_MEMORY_INFO, .image = image_, .memory = memory_, .memoryOffset = 0};
  return device_.checked(vk.BindImageMemory2(device_.device, 1, &bind), "vkBindImageMemory2");
}

Result<void> OverlayImage::create_staging(const Picture& picture) {
  const Functions& vk = device_.vk;
  const VkBufferCreateInfo info{.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                .size = picture.rgba.size(),
                                .usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT,
                                .sharingMode = VK_SHARING_MODE_EXCLUSIVE};
  if (auto made = device_.checked(vk.CreateBuffer(device_.device, &info, nullptr, &staging_), "vkCreateBuffer");
      !made) {
    return made;
  }
  const VkBufferMemoryRequirementsInfo2 asked{.sType = VK_STRUCTURE_TYPE_BUFFER_MEMORY_REQUIREMENTS_INFO_2,
                                              .buffer = staging_};
  VkMemoryRequirements2 needs{.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2};
  vk.GetBufferMemoryRequirements2(device_.device, &asked, &needs);
  auto memory =
      allocate(needs.memoryRequirements, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT);
  if (!memory) return std::unexpected(memory.error());
  staging_memory_ = *memory;
  const VkBindBufferMemoryInfo bind{
      .sType = VK_STRUCTURE_TYPE_BIND_BUFFER_MEMORY_INFO, .buffer = staging_, .memory = staging_memory_};
  if (auto bound = device_.checked(vk.BindBufferMemory2(device_.device, 1, &bind), "vkBindBufferMemory2"); !bound) {
    return bound;
  }
  void* data = nullptr;
  if (auto mapped = device_.checked(vk.MapMemory(device_.device, staging_memory_, 0, picture.rgba.size(), 0, &data),
                                    "vkMapMemory");
      !mapped) {
    return mapped;
  }
  std::memcpy(data, picture.rgba.data(), picture.rgba.size());
  vk.UnmapMemory(device_.device, staging_memory_);
  return {};
}

Result<void> OverlayImage::upload(Size size, VkCommandPool commands, Deadline deadline) {
  const Functions& vk = device_.vk;
  const VkCommandBufferAllocateInfo wanted{.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                           .commandPool = commands,
                                           .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                           .commandBufferCount = 1};
  VkCommandBuffer record = VK_NULL_HANDLE;
  if (auto made =
          device_.checked(vk.AllocateCommandBuffers(device_.device, &wanted, &record), "vkAllocateCommandBuffers");
      !made) {
    return made;
  }
  const VkCommandBufferBeginInfo begin{.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                       .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
  VkImageMemoryBarrier barrier{
      .sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER,
      .dstAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
      .oldLayout = VK_IMAGE_LAYOUT_UNDEFINED,
      .newLayout = VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL,
      .srcQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED,
      .dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED,
      .image = image_,
      .subresourceRange = {.aspectMask = VK_IMAGE_ASPECT_COLOR_BIT, .levelCount = 1, .layerCount = 1}};
  const VkBufferImageCopy region{.imageSubresource = {.aspectMask = VK_IMAGE_ASPECT_COLOR_BIT, .layerCount = 1},
                                 .imageExtent = {size.width, size.height, 1}};
  vk.BeginCommandBuffer(record, &begin);
  vk.CmdPipelineBarrier(record, VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT, VK_PIPELINE_STAGE_TRANSFER_BIT, 0, 0, nullptr, 0,
                        nullptr, 1, &barrier);
  vk.CmdCopyBufferToImage(record, staging_, image_, VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL, 1, &region);
  barrier.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT;
  barrier.dstAccessMask = VK_ACCESS_SHADER_READ_BIT;
  barrier.oldLayout = VK_IMAGE_LAYOUT_TRANSFER_DST_OPTIMAL;
  barrier.newLayout = VK_IMAGE_LAYOUT_SHADER_READ_ONLY_OPTIMAL;
  vk.CmdPipelineBarrier(record, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 0, nullptr, 0,
                        nullptr, 1, &barrier);
  if (auto ended = device_.checked(vk.EndCommandBuffer(record), "vkEndCommandBuffer"); !ended) return ended;
  const VkFenceCreateInfo fence_info{.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
  VkFence done = VK_NULL_HANDLE;
  if (auto made = device_.checked(vk.CreateFence(device_.device, &fence_info, nullptr, &done), "vkCreateFence");
      !made) {
    return made;
  }
  const VkSubmitInfo submit{
      .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &record};
  auto result = device_.submit(submit, done);
  if (result) result = wait_for(device_, done, deadline);
  vk.DestroyFence(device_.device, done, nullptr);
  return result;
}

Result<void> OverlayImage::create(const Picture& picture, VkCommandPool commands, Deadline deadline) {
  if (auto made = create_image(picture.size); !made) return made;
  if (auto made = create_staging(picture); !made) return made;
  if (auto done = upload(picture.size, commands, deadline); !done) return done;
  auto view = make_view(device_, {.image = image_, .format = VK_FORMAT_R8G8B8A8_UNORM}, {0, 1, 2, 3});
  if (!view) return std::unexpected(view.error());
  view_ = *view;
  return {};
}

}  // namespace dmaflow::vulkan
