// Stand-ins for devices in unit tests, so that the core's own rules (holds, policies, negotiation, the loop) can be
// tested on any machine. They model nothing that the kernel does; integration tests use real devices.
#pragma once

#include "support.hpp"

#include <dmaflow/device.hpp>
#include <dmaflow/stats.hpp>

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include <poll.h>

namespace dmaflow::test {

/// Lets memfds pass as dma-bufs while it lives, and records DMA_BUF_IOCTL_SYNC.
class PretendDmaBufs : public sys::Hook {
 public:
  PretendDmaBufs();
  ~PretendDmaBufs() override;
  int before(const sys::Call& call) noexcept override;
  /// Flags of every DMA_BUF_IOCTL_SYNC, in order.
  std::vector<std::uint64_t> syncs;
  /// The results of the next DMA_BUF_IOCTL_SYNC calls; each is used once: 0, EINTR (handled by the seam), EAGAIN, EIO,
  /// ...
  std::deque<int> sync_answers;
};

/// A memfd of this many bytes.
Fd memfd(std::uint64_t bytes);
/// A buffer of memfds with this layout.
Buffer memfd_buffer(const Layout& layout, const Constraints& constraints = {});

class FakeAllocator : public Allocator {
 public:
  explicit FakeAllocator(std::string name, MemoryTraits traits = {}) : name_(std::move(name)), traits_(traits) {}
  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  [[nodiscard]] MemoryTraits traits() const noexcept override { return traits_; }
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override;
  Constraints own;               ///< e.g. a stride alignment it insists on
  std::vector<Request> asked;    ///< every request it got
  std::optional<Error> refusal;  ///< every allocate() fails with it
  std::uint32_t most = 64;       ///< allocating more at once fails with ENOMEM
  std::uint64_t made = 0;

 private:
  std::string name_;
  MemoryTraits traits_;
};

/// A camera whose frames the test makes with expose().
class FakeSource : public Source {
 public:
  explicit FakeSource(std::vector<StreamConfig> configs, std::string name = "camera");
  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  [[nodiscard]] bool take_changed() noexcept override { return std::exchange(changed, false); }
  [[nodiscard]] bool is_waiting() const noexcept override { return waits; }
  [[nodiscard]] Result<std::vector<StreamConfig>> offers(const StreamRequest& request) override;
  [[nodiscard]] Result<void> set_output(const StreamConfig& config) override;
  [[nodiscard]] const StreamConfig& output() const noexcept override { return output_; }
  [[nodiscard]] Result<void> try_output(const Buffer& buffer) override;
  [[nodiscard]] std::uint32_t min_buffers() const noexcept override { return 2; }
  [[nodiscard]] Allocator* output_allocator() noexcept override { return own_allocator; }
  [[nodiscard]] int poll_fd() const noexcept override { return event_.get(); }
  [[nodiscard]] short poll_events() const noexcept override { return started || waits ? POLLIN : 0; }
  [[nodiscard]] Result<void> dispatch(short revents) override;
  [[nodiscard]] Result<void> start(std::span<const Buffer> buffers) override;
  Result<void> stop() noexcept override;
  [[nodiscard]] Result<Frame> take() override;
  [[nodiscard]] HoldSet* holds() noexcept override { return holds_.get(); }

  /// Makes a frame in the next queued buffer. If none is queued, the frame is lost (a gap in the sequence).
  bool expose();
  /// Ends the stream: take() fails with EPIPE once nothing is left.
  void end();

  std::vector<StreamConfig> configs;
  Allocator* own_allocator = nullptr;
  bool follows_strides = true;                        ///< set_output() takes the config's strides
  std::function<Result<void>(const Buffer&)> on_try;  ///< what try_output() returns for a buffer
  std::optional<Error> take_error;                    ///< take() fails with it
  std::optional<Error> start_error;                   ///< start() fails with it
  bool waits = false;                                 ///< is_waiting(): it waits for an external event
  FrameInfo::Clock clock = FrameInfo::Clock::monotonic;
  std::function<void(FrameInfo&)> on_expose;  ///< changes the description of the next frame
  std::function<Fence()> on_lend;             ///< makes the fence of the next frame
  bool changed = false;
  bool started = false;
  int starts = 0;
  std::vector<std::uint32_t> queued;  ///< slots that the next frames can be written to

 private:
  void signal();
  std::string name_;
  StreamConfig output_;
  Fd event_;
  std::shared_ptr<HoldSet> holds_;
  std::deque<FrameInfo> exposed_;
  std::deque<std::uint32_t> exposed_slots_;
  std::uint64_t sequence_ = 0;
  bool ended_ = false;
};

/// A display that shows one frame at a time. A test ends a flip with flip().
class FakeSink : public Sink {
 public:
  explicit FakeSink(std::string name = "display");
  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  [[nodiscard]] bool take_changed() noexcept override { return std::exchange(changed, false); }
  [[nodiscard]] bool is_waiting() const noexcept override { return waits; }
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  [[nodiscard]] Needs needs() const override { return wants; }
  [[nodiscard]] std::uint64_t dropped() const noexcept override { return let_go; }
  [[nodiscard]] Result<void> import(const Buffer& buffer) override;
  [[nodiscard]] bool moves(const Buffer& buffer) const noexcept override { return buffer.origin() == moves_origin; }
  [[nodiscard]] std::uint32_t max_held() const noexcept override { return 2; }
  [[nodiscard]] Allocator* input_allocator() noexcept override { return own_allocator; }
  [[nodiscard]] int poll_fd() const noexcept override { return event_.get(); }
  [[nodiscard]] short poll_events() const noexcept override { return staged_ ? POLLIN : 0; }
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept override { return wake_at; }
  [[nodiscard]] Result<void> dispatch(short revents) override;
  [[nodiscard]] bool ready() const noexcept override { return !staged_; }
  [[nodiscard]] Result<Frame> accept(Frame frame) override;
  [[nodiscard]] Result<void> flush() override;
  [[nodiscard]] std::size_t take_presented(std::span<Presentation> out) noexcept override;
  [[nodiscard]] std::chrono::nanoseconds lead_time() const noexcept override { return lead; }
  Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  Result<void> stop() noexcept override;

  /// Ends the flip: the staged frame can be shown.
  void flip();

  std::vector<PixelFormat> takes = {formats::xrgb8888};
  Allocator* own_allocator = nullptr;
  std::function<Result<void>(const Buffer&)> on_import;
  std::string moves_origin = "nobody";  ///< whose memory it moves
  Needs wants{};                        ///< what it needs of buffers
  std::optional<Error> accept_error;    ///< accept() fails with it
  bool hangs = false;                   ///< it shows nothing more, and drain() times out
  bool waits = false;                   ///< is_waiting(): it waits for an external event
  std::uint64_t let_go = 0;             ///< frames that it accepted and did not show
  std::vector<std::uint64_t> shown;     ///< sequence numbers, in order
  bool busy = false;                    ///< a flip is in progress: flush() leaves the frame staged
  bool always_busy = false;             ///< each shown frame makes it busy until flip()
  bool changed = false;
  std::chrono::nanoseconds lead{0};  ///< how long before its target time it wants a frame
  std::optional<Deadline> wake_at;   ///< when dispatch(0) is wanted; that call resets it
  int woken = 0;
  int imports = 0;
  int stops = 0;

 private:
  std::string name_;
  Fd event_;
  Frame staged_;
  Frame on_screen_;
  std::vector<Presentation> presented_;
};

/// Asserts that every captured frame is in exactly one counter of each branch.
void expect_all_counted(const Stats& stats);

/// 64x48 XRGB8888 linear, strides as tight as possible.
StreamConfig small_config(PixelFormat format = formats::xrgb8888, Size size = {64, 48});

}  // namespace dmaflow::test
