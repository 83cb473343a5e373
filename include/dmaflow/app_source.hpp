// AppSource: frames that the program makes itself: a decoder, a renderer, a test picture.
#pragma once

#include <dmaflow/device.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dmaflow {

struct AppSourceOptions {
  std::string name = "app";  ///< for messages
  /// Buffers that the program fills at once: 1 to 32. As many more are made.
  std::uint32_t filling = 1;
  /// True where the CPU writes the pixels (CpuAccess). False where a device of the program's does; it must try by
  /// itself what it can write to.
  bool writes_by_cpu = true;
};

/// A source for Pipeline::connect(). acquire(), push() and end() may be called from any thread, all others from the
/// loop's. A pipeline stops it before it is destroyed; frames that are still held then stay valid.
class AppSource final : public Source {
 public:
  /// @p configs: what the program can make, best first; strides and offsets are ignored, for the memory decides them.
  /// Errors: EINVAL (no config; `filling` out of range), EMFILE.
  static Result<std::unique_ptr<AppSource>> create(std::vector<StreamConfig> configs, AppSourceOptions options = {});
  ~AppSource() override;

  /// A buffer to be filled, as its layout() says; nobody reads it any more. Give it to push(), or drop it: then it is
  /// free again. Waits until there is one, or the deadline; the loop's own thread must not wait, for it is the loop
  /// that sees what came back. Errors: EAGAIN (none is free, and the deadline has passed), EINVAL (not started), EPIPE
  /// (end() was called).
  [[nodiscard]] Result<Frame> acquire(Deadline deadline = Deadline::immediate());
  /// Hands a filled frame on. @p info: its sequence number is replaced by the source's own count; without a clock, the
  /// time stamp is now. @p ready: from when it may be read. What is not pushed because of an error is dropped.
  /// Errors: EINVAL (empty, not from acquire(), or from before the last start), EPERM (it was split), EPIPE.
  Result<void> push(Frame frame, FrameInfo info = {}, Fence ready = {});
  /// The stream ends once what was pushed has been taken.
  void end() noexcept;

  [[nodiscard]] std::string_view name() const noexcept override;
  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest& request) override;
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override;
  [[nodiscard]] const StreamConfig& output() const noexcept override;
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override;
  [[nodiscard]] bool writes_by_cpu() const noexcept override;

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;
  [[nodiscard]] Result<void> start(std::span<const Buffer> buffers) override;
  Result<void> stop() noexcept override;
  [[nodiscard]] Result<Frame> take() override;
  [[nodiscard]] HoldSet* holds() noexcept override;

 private:
  struct Impl;
  explicit AppSource(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow
