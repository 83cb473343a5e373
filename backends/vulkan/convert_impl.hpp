// The inside of vulkan::Convert: its buffers, the recorded work from each input to each output, and the places in
// flight.
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
  /// Buffers that frames may come in.
  static constexpr std::uint32_t most_inputs = HoldSet::max_buffers;

  /// An input with what the shader reads of it.
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

  /// One of the places in flight.
  struct Slot {
    VkSemaphore acquired = VK_NULL_HANDLE;  // what the frame's fence is imported into
    VkSemaphore done = VK_NULL_HANDLE;      // what the output's fence is exported from
    VkFence fence = VK_NULL_HANDLE;         // when the place is free again
    bool busy = false;
    std::uint32_t pair = 0;
    Deadline::Clock::time_point submitted{};
    Frame held;  // the frame itself, where no fence could be given to its source
    Fence end;   // to wait for in poll, where all places are taken
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
  std::uint64_t dropped = 0;  // frames whose fence failed
  Reading reading;
  std::unique_ptr<YuvSampler> sampler;  // where all planes are read as one image
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
  Frame pending;                      // taken, not yet submitted
  Fence filled;                       // from when it may be read
  Frame finished;                     // submitted, not yet given on
  Deadline::Clock::time_point now{};  // of this turn: looked at once for all that is measured
  Histogram gpu_time;
  Histogram turnaround;
  Histogram waited;

  [[nodiscard]] Size target_size() const noexcept;
  [[nodiscard]] Result<Reading> reading_of(const StreamConfig& config) const;
  /// Software devices run what is submitted when its fence is asked for: with a fence still pending they would block.
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
