// The implementation of vulkan::Convert: its buffers, the work recorded from each input to each output, and the slots
// in flight.
#pragma once

#include "convert_sampler.hpp"
#include "convert_shader.hpp"

#include <dmaflow/pool.hpp>
#include <dmaflow/vulkan_convert.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dmaflow::vulkan {

struct Convert::Impl {
  static constexpr std::uint32_t most_in_flight = 8;
  /// The most buffers that frames may come in.
  static constexpr std::uint32_t most_inputs = HoldSet::max_buffers;

  /// An input and what the shader reads from it.
  struct Input {
    Buffer buffer;
    std::array<Image, 3> images{};
    std::array<VkImageView, 3> views{};
    VkDescriptorSet set = VK_NULL_HANDLE;
  };

  struct Output {
    Buffer buffer;
    Image image{};
    VkImageView view = VK_NULL_HANDLE;
    VkDescriptorSet set = VK_NULL_HANDLE;
  };

  /// The recorded work from one input to one output.
  struct Pair {
    VkCommandBuffer commands = VK_NULL_HANDLE;
    Rect visible{};
    ColorInfo color{};
  };

  /// A slot for one frame in flight.
  struct Slot {
    VkSemaphore acquired = VK_NULL_HANDLE;  // the frame's fence is imported into it
    VkSemaphore done = VK_NULL_HANDLE;      // the output's fence is exported from it
    VkFence fence = VK_NULL_HANDLE;         // signals when the slot is free again
    bool busy = false;
    std::uint32_t pair = 0;
    Deadline::Clock::time_point submitted{};
    Frame held;  // the frame itself, if no fence could be passed to its source
    Fence end;   // to wait for in poll, if all slots are busy
  };

  explicit Impl(Device::Impl& gpu_impl, Device& gpu_device) : gpu(gpu_impl), device(gpu_device) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { stop(); }

  Device::Impl& gpu;
  Device& device;
  ConvertOptions options;
  std::string name;
  StreamConfig input;
  StreamConfig output;

  bool started = false;
  std::uint64_t dropped = 0;  // frames whose fence failed, or that waited when it was stopped
  Reading reading;
  std::unique_ptr<YuvSampler> sampler;  // if all planes are read as one image
  std::unique_ptr<ConvertShader> shader;
  std::unique_ptr<OverlayImage> overlay;
  VkCommandPool commands = VK_NULL_HANDLE;
  VkQueryPool times = VK_NULL_HANDLE;
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  std::vector<Pair> pairs;  // of input i and output o: i * outputs + o
  std::array<Slot, most_in_flight> slots;
  std::uint32_t next_slot = 0;
  std::optional<Pool> pool;
  Frame pending;                      // accepted, not yet submitted
  Fence filled;                       // signals when it may be read
  Frame finished;                     // submitted, not yet taken
  Deadline::Clock::time_point now{};  // read once per iteration, for all measurements
  Histogram gpu_time;
  Histogram turnaround;
  Histogram waited;

  [[nodiscard]] Size target_size() const noexcept;
  [[nodiscard]] Result<Reading> reading_of(const StreamConfig& config) const;
  /// Software devices execute submitted work when its fence is exported: with a pending fence, that would block.
  [[nodiscard]] bool gpu_waits() const noexcept { return gpu.imports_sync_fd && !gpu.is_software; }
  [[nodiscard]] Result<void> start(std::span<const Buffer> given, std::vector<Buffer> made);
  [[nodiscard]] Result<void> start_pools();
  [[nodiscard]] Result<void> start_shader(std::size_t output_count);
  [[nodiscard]] Result<void> fill(Input& place, const Buffer& buffer);
  void clear(Input& place) const noexcept;
  [[nodiscard]] Result<void> add_later(const Buffer& buffer);
  void remove_later(const Buffer& buffer) noexcept;
  [[nodiscard]] Result<void> allocate_pairs(std::size_t more);
  [[nodiscard]] Result<void> add_output(const Buffer& buffer);
  [[nodiscard]] Result<void> start_slots();
  [[nodiscard]] Result<void> record_all();
  [[nodiscard]] Result<void> record(std::uint32_t pair, const Rect& visible, const ColorInfo& color);

  [[nodiscard]] Result<bool> advance();
  [[nodiscard]] Result<bool> submit_pending();
  [[nodiscard]] Result<bool> try_submit();
  [[nodiscard]] Result<Fence> fence_of(const Frame& frame) const;
  [[nodiscard]] Result<bool> may_submit();
  [[nodiscard]] Result<void> submit(Slot& slot, Frame target);
  [[nodiscard]] Result<void> after_work(const Slot& slot, const Error& error);
  void give_back(Slot& slot, const Fence& done);
  [[nodiscard]] Result<void> reclaim();
  [[nodiscard]] Result<void> finish(Slot& slot);
  [[nodiscard]] Result<void> wait_idle(Deadline deadline, const Cancel* cancel = nullptr);
  void stop() noexcept;
};

}  // namespace dmaflow::vulkan
