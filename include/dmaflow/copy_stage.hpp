// CopyStage: the only place where dmaflow copies pixels, and only if the caller asked for it.
#pragma once

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/device.hpp>
#include <dmaflow/pool.hpp>

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dmaflow {

/// Copies each frame, by CPU, to a buffer that the next device accepts: format and size stay, strides and memory may
/// differ.
/// A plan uses it if no memory suits both sides and StreamRequest::allow_copy is set; bytes_copied() then counts every
/// byte. It supports the linear formats that the table knows, and opaque ones. It waits for fences, including implicit
/// ones, in the loop: take() never blocks. A frame whose fence failed is released and counted in dropped().
class CopyStage final : public Stage {
 public:
  CopyStage() = default;
  ~CopyStage() override;

  [[nodiscard]] std::string_view name() const noexcept override { return "copy"; }
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  [[nodiscard]] Needs needs() const override;
  [[nodiscard]] Result<void> import(const Buffer& buffer) override;
  [[nodiscard]] Result<void> add_buffer(const Buffer& buffer) override;
  void remove_buffer(const Buffer& buffer) noexcept override;
  [[nodiscard]] std::uint32_t max_held() const noexcept override { return 1; }
  [[nodiscard]] bool returns_in_calls() const noexcept override { return true; }
  [[nodiscard]] std::uint64_t dropped() const noexcept override { return dropped_; }

  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest& request) override;
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override;
  [[nodiscard]] const StreamConfig& output() const noexcept override { return output_; }
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override { return 1; }
  [[nodiscard]] bool writes_by_cpu() const noexcept override { return true; }

  [[nodiscard]] int poll_fd() const noexcept override { return busy_.fd; }
  [[nodiscard]] short poll_events() const noexcept override { return busy_.events; }
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept override { return busy_.look_again; }
  [[nodiscard]] int waiting_fence() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;

  [[nodiscard]] Result<void> start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) override;
  [[nodiscard]] bool ready() const noexcept override { return !waiting_ && !finished_; }
  [[nodiscard]] Result<void> accept(Frame frame) override;
  [[nodiscard]] Result<Frame> take() override;
  Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  Result<void> stop() noexcept override;
  [[nodiscard]] std::uint64_t bytes_copied() const noexcept override { return bytes_copied_; }

 private:
  /// What it waits for in addition to the frame's own fence.
  struct Busy {
    int fd = -1;  // a dma-buf: readable once nobody writes to it, writable once nobody reads it either
    short events = 0;
    std::optional<Deadline> look_again{};  // if the kernel names nothing to wait for
  };
  Result<void> advance();
  Result<bool> begin(std::optional<CpuAccess>& access, const CpuMap* map, CpuAccess::Mode mode);
  void move_pixels(const CpuAccess& read, const CpuAccess& write);
  void reset() noexcept;

  StreamConfig input_;
  StreamConfig output_;
  std::list<CpuMap> input_maps_;
  std::list<CpuMap> output_maps_;
  std::optional<Pool> pool_;
  Frame waiting_;            // accepted, not yet copied
  bool fence_ended_ = true;  // that of waiting_
  Frame target_;             // where it is copied to, once there is one
  Frame finished_;           // copied, not yet taken
  Busy busy_{};
  std::uint64_t bytes_copied_ = 0;
  std::uint64_t dropped_ = 0;
};

}  // namespace dmaflow
