// AppSource: a source of frames that the program makes itself, e.g. a decoder, a renderer, a test picture.
#pragma once

#include <dmaflow/device.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dmaflow {

struct AppSourceOptions {
  std::string name = "app";  ///< for messages
  /// The number of buffers that the program fills at once: 1 to 32. That many additional buffers are made.
  std::uint32_t filling = 1;
  /// True if the CPU writes the pixels (CpuAccess). False if one of the program's devices does; the program must then
  /// check itself what that device can write to.
  bool writes_by_cpu = true;
};

/// A source for Pipeline::connect(). acquire(), push() and end() may be called from any thread, all others from the
/// loop's. A pipeline stops it before it is destroyed; frames that are still held then stay valid.
class AppSource final : public Source {
 public:
  /// @p configs: what the program can make, best first; strides and offsets are ignored, because the memory determines
  /// them. Errors: EINVAL (no config; `filling` out of range), EMFILE.
  static Result<std::unique_ptr<AppSource>> create(std::vector<StreamConfig> configs, AppSourceOptions options = {});
  ~AppSource() override;

  /// A buffer to be filled according to its layout(); all reads of it have ended. Pass it to push(), or drop it: then
  /// it is free again. Waits until there is one, or the deadline; the loop's own thread must not wait, because only the
  /// loop notices returned buffers. Errors: EAGAIN (none is free, and the deadline has passed), EINVAL (not started),
  /// EPIPE (end() was called).
  [[nodiscard]] Result<Frame> acquire(Deadline deadline = Deadline::immediate());
  /// Passes a filled frame on. @p info: its sequence number is replaced by the source's own count; without a clock, the
  /// time stamp is now. @p ready: signals when it may be read. On an error the frame is dropped.
  /// Errors: EINVAL (empty, not from acquire(), or from before the last start), EPERM (it was split), EPIPE.
  Result<void> push(Frame frame, FrameInfo info = {}, Fence ready = {});
  /// Ends the stream once all pushed frames have been taken.
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
