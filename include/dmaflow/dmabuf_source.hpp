// DmaBufSource: a source of frames in dma-bufs from elsewhere: a decoder's, a compositor's, another process's.
#pragma once

#include <dmaflow/device.hpp>
#include <dmaflow/function.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dmaflow {

struct DmaBufSourceOptions {
  std::string name = "dma-bufs";  ///< for messages
  /// The number of different buffers known at once: 1 to HoldSet::max_buffers. If more come, the least recently used
  /// buffer is removed, and its imports end.
  std::uint32_t max_buffers = 32;
  /// Called in the loop's thread when the last holder of a frame has released it, with its buffer, the FrameInfo given
  /// to push() (so FrameInfo::user can carry a pointer), and the fences to wait for before the memory is written again.
  /// Frames that still wait when the stream stops are reported as well. A frame that is still held after the stop is
  /// reported by dispatch(), but not once the stream was started again.
  Function<void(const Buffer&, const FrameInfo&, std::span<const Fence>)> released{};
};

/// A source for Pipeline::connect() whose buffers are added and removed while it streams. A buffer is imported by the
/// consumers once, between two frames, the first time it is pushed; after that a frame in it costs no import. buffer(),
/// push(), forget() and end() may be called from any thread, all others from the loop's.
class DmaBufSource final : public Source {
 public:
  /// @p config: the stream, with the layout of the buffers. @p samples: at least one buffer like the later ones, for
  /// negotiation to try; the consumers then have them already. Errors: EINVAL (no sample, or one of another size,
  /// format or modifier; max_buffers out of range), EMFILE.
  static Result<std::unique_ptr<DmaBufSource>> create(StreamConfig config, std::vector<Buffer> samples,
                                                      DmaBufSourceOptions options = {});
  ~DmaBufSource() override;

  /// The buffer with these dma-bufs and this layout: the known one, found by the identity of the dma-bufs (ObjectId)
  /// and not by the descriptor numbers; else a new one that holds duplicates of the descriptors. The caller keeps its
  /// descriptors. Errors: those of Buffer::create() and of dup(2).
  [[nodiscard]] Result<Buffer> buffer(const Layout& layout, std::span<const int> descriptors);
  /// Passes on an image in a buffer, which must not be written until it is released. The same buffer may be pushed
  /// again meanwhile, because it is only read. @p info: its sequence number is replaced by the source's own count;
  /// without a clock, the time stamp is now. @p ready: signals when it may be read. Errors: EINVAL (the buffer is
  /// empty, or of another size, format or modifier), EAGAIN (HoldSet::max_buffers images wait already), EPIPE (end()
  /// was called).
  Result<void> push(const Buffer& buffer, FrameInfo info = {}, Fence ready = {});
  /// The buffer will not be used again: its imports end once no frame in it is held.
  void forget(const Buffer& buffer);
  /// Ends the stream once all pushed frames have been taken.
  void end() noexcept;

  [[nodiscard]] std::string_view name() const noexcept override;
  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest& request) override;
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override;
  [[nodiscard]] const StreamConfig& output() const noexcept override;
  /// Accepts only its own buffers. Errors: EINVAL.
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override { return 1; }
  [[nodiscard]] Allocator* output_allocator() noexcept override;
  [[nodiscard]] bool brings_buffers() const noexcept override { return true; }

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;
  [[nodiscard]] Result<void> start(std::span<const Buffer> buffers) override;
  Result<void> stop() noexcept override;
  [[nodiscard]] Result<Frame> take() override;
  [[nodiscard]] HoldSet* holds() noexcept override;

 private:
  struct Impl;
  explicit DmaBufSource(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow
