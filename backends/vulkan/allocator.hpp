// The GPU's memory as an Allocator.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/vulkan.hpp>

namespace dmaflow::vulkan {

/// Used by the thread that uses the device. The Vulkan objects are destroyed once the dma-buf is exported: the dma-buf
/// keeps the memory, and every user of the buffer, including this device, imports it.
class MemoryAllocator final : public Allocator {
 public:
  explicit MemoryAllocator(Device::Impl& device) noexcept : device_(device) {}
  [[nodiscard]] std::string_view name() const noexcept override { return "vulkan"; }
  [[nodiscard]] MemoryTraits traits() const noexcept override { return {}; }
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override;

 private:
  [[nodiscard]] Result<Buffer> allocate_image(const Request& request);
  [[nodiscard]] Result<Buffer> export_image(const Request& request, VkImageUsageFlags usage, VkImage image);
  [[nodiscard]] Result<Buffer> allocate_memory(const Request& request);
  [[nodiscard]] Result<Fd> allocate_bytes(std::uint64_t bytes);
  [[nodiscard]] Result<Fd> allocate_and_export(const VkMemoryRequirements& needs, const void* dedicated,
                                               VkDeviceMemory& memory);
  Device::Impl& device_;
};

}  // namespace dmaflow::vulkan
