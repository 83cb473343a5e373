// CopyStage: the one place where dmaflow copies pixels, and only where the caller asked for it.
#pragma once

#include <dmaflow/cpu_access.hpp>
#include <dmaflow/device.hpp>
#include <dmaflow/pool.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dmaflow {

/// Copies each frame, by CPU, to a buffer its follower accepts: format and size stay, strides and memory may differ.
/// A plan uses it where no memory suits both sides and StreamRequest::allow_copy is set; bytes_copied() then counts
/// every byte. Linear formats the table knows, and opaque ones.
class CopyStage final : public Stage {
 public:
  CopyStage() = default;
  ~CopyStage() override;

  [[nodiscard]] std::string_view name() const noexcept override { return "copy"; }
  [[nodiscard]] Result<void> check(const StreamConfig& config) override;
  [[nodiscard]] Result<void> configure(const StreamConfig& config) override;
  [[nodiscard]] Result<void> import(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t max_held() const noexcept override { return 1; }
  [[nodiscard]] bool returns_in_calls() const noexcept override { return true; }

  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest& request) override;
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override;
  [[nodiscard]] const StreamConfig& output() const noexcept override { return output_; }
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override { return 1; }
  [[nodiscard]] bool writes_by_cpu() const noexcept override { return true; }

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;

  [[nodiscard]] Result<void> start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) override;
  [[nodiscard]] bool ready() const noexcept override { return !waiting_ && !finished_; }
  [[nodiscard]] Result<void> accept(Frame frame) override;
  [[nodiscard]] Result<Frame> take() override;
  Result<void> drain(Deadline deadline) override;
  Result<void> stop() noexcept override;
  [[nodiscard]] std::uint64_t bytes_copied() const noexcept override { return bytes_copied_; }

 private:
  Result<void> copy(const Frame& from, const Frame& to);

  StreamConfig input_;
  StreamConfig output_;
  std::vector<CpuMap> input_maps_;
  std::vector<CpuMap> output_maps_;
  std::optional<Pool> pool_;
  Frame waiting_;   // accepted, no free output yet
  Frame finished_;  // copied, not yet taken
  std::uint64_t bytes_copied_ = 0;
};

}  // namespace dmaflow
