// The interfaces of devices: a source of frames, a stage that changes them, a sink that takes them.
//
// Negotiation and the pipeline use devices only through these interfaces, so a new device is a new backend and nothing
// else. All calls come from one thread, the loop's. There are no hidden threads and no signal handlers.
//
// The loop's contract, the same for every object:
//
//   1. Wait until poll_fd() reports poll_events(), waiting_fence() becomes readable, or wake_by() has come.
//   2. Call dispatch() with what poll reported for poll_fd(), or with 0. A call with 0 is allowed at any time.
//   3. Sources and stages: call take() until it returns an empty frame. Then no frame is missed, whether dispatch()
//      drains the descriptor (an eventfd) or leaves it readable (a V4L2 queue).
//   4. Sinks: accept() frames, then flush().
//
// After steps 2 and 3 an object must not ask for attention again until something new has happened: a descriptor that
// stays readable, or a wake_by() in the past, makes the loop spin. dmaflow/testing/conformance.hpp checks all of this
// on any Source and Sink.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/cancel.hpp>
#include <dmaflow/deadline.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/frame.hpp>
#include <dmaflow/layout.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dmaflow {

/// Time from one frame to the next, as a fraction of a second (1/60); 0/0 = not stated.
struct Interval {
  std::uint32_t numerator = 0;
  std::uint32_t denominator = 0;
  friend constexpr bool operator==(Interval, Interval) = default;
};

/// A stream as both ends understand it.
struct StreamConfig {
  Layout layout{};
  ColorInfo color{};
  Interval interval{};
  Constraints constraints{};  ///< what the device needs of buffers for this stream

  /// "1280x720 XRGB8888 LINEAR 60.00/s".
  [[nodiscard]] std::string describe() const;
};

/// What the user wants; the device chooses everything left out.
struct StreamRequest {
  std::optional<Size> size{};          ///< of the source's images
  std::vector<PixelFormat> formats{};  ///< of the source: acceptable ones, best first; empty = any
  std::optional<Interval> interval{};  ///< of the source
  /// Use only this allocator, by name ("display", "heap:system"), on every link that has one with this name; empty =
  /// any.
  std::string allocator{};
  std::uint32_t buffers = 0;  ///< how many on each link; 0 = as many as needed
  /// This many more on the source's link, for branches that are added while it streams (Pipeline::connect()).
  std::uint32_t spare_buffers = 0;
  bool allow_copy = false;  ///< accept a copy of each frame on a link if nothing else works
};

/// What a consumer asks of the buffers it imports. These are preferences: negotiation first tries to meet them, and
/// also accepts a buffer that works without them.
struct Needs {
  Constraints constraints{};          ///< strides, offsets, sizes, contiguous or cached memory
  Usage usage{};                      ///< what the consumer does with them
  std::vector<Modifier> modifiers{};  ///< those it takes with the configured format, best first; empty = not known
};

/// Something with a descriptor to wait on.
class Pollable {
 public:
  Pollable() = default;
  Pollable(const Pollable&) = delete;
  Pollable& operator=(const Pollable&) = delete;
  virtual ~Pollable() = default;

  /// Owned by the object; constant while it is started.
  [[nodiscard]] virtual int poll_fd() const noexcept = 0;
  /// What to wait for now (POLLIN, ...); 0 = nothing now: leave the descriptor out of the wait.
  [[nodiscard]] virtual short poll_events() const noexcept = 0;
  /// When to call dispatch(0) even if nothing was reported; nullopt = not needed. That call moves it to a later time,
  /// or to nullopt.
  [[nodiscard]] virtual std::optional<Deadline> wake_by() const noexcept { return std::nullopt; }
  /// Handles what happened. @p revents: what poll reported for poll_fd(), 0 for nothing. Never blocks.
  [[nodiscard]] virtual Result<void> dispatch(short revents) = 0;
  /// The sync_file that this object waits for before it can continue; -1 = none. Once it is readable (POLLIN),
  /// dispatch(0) continues, and the next wait is for another one. It may differ from one call to the next. The object
  /// keeps ownership.
  [[nodiscard]] virtual int waiting_fence() const noexcept { return -1; }
};

/// A device that takes part in a negotiation.
class Participant {
 public:
  /// For messages, e.g. "/dev/video0 (vivid)".
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  /// True once after a change that makes the plan invalid (a camera's signal, a display's mode): the pipeline drains,
  /// negotiates again and continues.
  [[nodiscard]] virtual bool take_changed() noexcept { return false; }
  /// True while it waits for an external event that may take any time: a camera for its signal, a display for its VT, a
  /// peer for another process. Meanwhile RunOptions::frame_timeout does not apply.
  [[nodiscard]] virtual bool is_waiting() const noexcept { return false; }

 protected:
  ~Participant() = default;
};

/// Fills buffers: a camera, or the output side of a stage.
class Producer : public virtual Participant {
 public:
  /// The streams it can produce that meet @p request, best first. If the device reports strides only once it is
  /// configured, the layouts have zero strides; set_output() makes them exact.
  /// Errors: EINVAL if nothing fits, with the formats, sizes and rates it has in the detail.
  [[nodiscard]] virtual Result<std::vector<StreamConfig>> offers(const StreamRequest& request) = 0;
  /// Configures the device for @p config; if its layout has strides, asks for those. output() then returns the
  /// configuration that the device chose: the same size and format, with its own strides and constraints. Errors: EBUSY
  /// (in use, or started), EINVAL (the device insists on another size or format).
  [[nodiscard]] virtual Result<void> set_output(const StreamConfig& config) = 0;
  [[nodiscard]] virtual const StreamConfig& output() const noexcept = 0;
  /// Really tries whether it can write to @p buffer, which has the layout of output(). Leaves nothing behind except
  /// attachments of the buffer. Errors: EINVAL (the strides differ) and the device's own error.
  [[nodiscard]] virtual Result<void> try_output(const Buffer& buffer) = 0;
  /// The number of buffers it keeps for itself while running.
  [[nodiscard]] virtual std::uint32_t min_buffers() const noexcept = 0;
  /// How it writes to buffers, for allocators that place memory by use. Default: by the CPU if writes_by_cpu(), else as
  /// a camera does.
  [[nodiscard]] virtual Usage output_usage() const noexcept {
    return {.capture = !writes_by_cpu(), .cpu = writes_by_cpu()};
  }
  /// Its own allocator, or nullptr.
  [[nodiscard]] virtual Allocator* output_allocator() noexcept { return nullptr; }
  /// True if its frames are in buffers that others allocated, any number of them, which are added and removed while it
  /// runs. Then output_allocator() returns some of them to try, as many as exist, and no other memory is considered.
  [[nodiscard]] virtual bool brings_buffers() const noexcept { return false; }
  /// True if it writes through mappings of this process (CpuMap), which stay valid when the memory moves.
  [[nodiscard]] virtual bool writes_by_cpu() const noexcept { return false; }

 protected:
  ~Producer() = default;
};

/// Takes foreign buffers: a display, or the input side of a stage.
class Consumer : public virtual Participant {
 public:
  /// Checks whether it could take such a stream; changes nothing. Errors: EINVAL and others, with what it takes in the
  /// detail.
  [[nodiscard]] virtual Result<void> check_input(const StreamConfig& config) = 0;
  /// Prepares for such a stream, replacing an earlier one. A display chooses the mode and the position on the screen.
  [[nodiscard]] virtual Result<void> set_input(const StreamConfig& config) = 0;
  /// What it needs from the buffers of the stream it was configured for. Negotiation merges the needs of all consumers
  /// of a link with the producer's constraints (the largest alignments, all usages, the modifiers that all take) and
  /// asks the allocators for the result.
  [[nodiscard]] virtual Needs needs() const { return {}; }
  /// Really tries @p buffer, and keeps the import on the buffer for later: a second call costs no system call.
  [[nodiscard]] virtual Result<void> import(const Buffer& buffer) = 0;
  /// Adds a buffer while the consumer is started, before the first frame in that buffer: the source's buffers may
  /// change (Source::holds()). Called between frames, in the loop. Allowed for a buffer that it already has. Default:
  /// import(), for consumers that need nothing more. Errors: those of import(), and the device's if it cannot take more
  /// buffers.
  [[nodiscard]] virtual Result<void> add_buffer(const Buffer& buffer) { return import(buffer); }
  /// The source no longer has the buffer, and no frame in it is held: the consumer releases everything it keeps for it.
  /// Default: nothing, for consumers whose imports are attachments of the buffer.
  virtual void remove_buffer(const Buffer& /*buffer*/) noexcept {}
  /// True if it moves an imported buffer's memory when it uses it, no matter who allocated the memory (see
  /// MemoryTraits::moves). Known after import().
  [[nodiscard]] virtual bool moves(const Buffer& /*buffer*/) const noexcept { return false; }
  /// The most frames it may hold at once: on the screen, submitted and waiting.
  [[nodiscard]] virtual std::uint32_t max_held() const noexcept = 0;
  /// True if it releases frames only inside calls made to it, so that no loop has to be woken when one returns. False
  /// if another thread may release them.
  [[nodiscard]] virtual bool returns_in_calls() const noexcept { return false; }
  /// Its own allocator, or nullptr.
  [[nodiscard]] virtual Allocator* input_allocator() noexcept { return nullptr; }
  /// The number of frames that it accepted and released unused since it was created: their fence failed, or the stream
  /// stopped first. A sink did not submit them, and a stage produced nothing for them. Frames that accept() refused or
  /// displaced do not count. Never decreases.
  [[nodiscard]] virtual std::uint64_t dropped() const noexcept { return 0; }

 protected:
  ~Consumer() = default;
};

/// Produces frames; see the loop's contract at the top. It may be destroyed while frames are held: they stay readable.
class Source : public Pollable, public Producer {
 public:
  /// Takes the buffers and begins. They came from its own allocator, or try_output() accepted one like them.
  /// On an error it is stopped and holds no buffers.
  [[nodiscard]] virtual Result<void> start(std::span<const Buffer> buffers) = 0;
  /// Ends the stream and releases the buffers. Frames still held stay valid. Stopping twice is allowed.
  virtual Result<void> stop() noexcept = 0;
  /// The next frame, or an empty one if there is none yet. Never blocks. Call it after each dispatch() until it
  /// returns an empty frame; a call that has nothing to return should cost no system call.
  /// Errors: ENODEV (gone), EPIPE (the stream has ended), EIO and others from the device.
  [[nodiscard]] virtual Result<Frame> take() = 0;
  /// False if the next take() would certainly return an empty frame, so that the loop need not call it. Default: true.
  [[nodiscard]] virtual bool may_have_frame() const noexcept { return true; }
  /// The holds of the running stream; nullptr while stopped. dispatch() gives returned buffers back to the device. Its
  /// buffers may change (HoldSet::add(), retire()) inside dispatch() and take(): the pipeline then tells the consumers,
  /// before they get the next frame.
  [[nodiscard]] virtual HoldSet* holds() noexcept = 0;
};

/// When a frame reached its viewer.
struct Presentation {
  std::uint64_t sequence = 0;            ///< FrameInfo::sequence
  std::chrono::nanoseconds captured{0};  ///< FrameInfo::timestamp, on the frame's own clock
  /// CLOCK_MONOTONIC, as the display's driver reports it. A driver that simulates its refresh with a timer reports when
  /// the timer was due, which may be up to a refresh period before the frame was submitted.
  std::chrono::nanoseconds presented{0};
  std::chrono::nanoseconds target{0};             ///< FrameInfo::target: when it should have been; 0 = not said
  std::optional<std::chrono::nanoseconds> pts{};  ///< FrameInfo::pts

  /// What is known before it is shown.
  [[nodiscard]] static Presentation of(const FrameInfo& info) noexcept {
    return {.sequence = info.sequence,
            .captured = info.timestamp,
            .presented = std::chrono::nanoseconds{0},
            .target = info.target,
            .pts = info.pts};
  }
};

/// Takes frames and uses them, for example shows them.
class Sink : public Pollable, public Consumer {
 public:
  /// Gets every buffer that exists now, so that nothing is imported later except through add_buffer(). Default:
  /// import() each.
  [[nodiscard]] virtual Result<void> start(std::span<const Buffer> buffers);
  /// True if accept() would displace no frame.
  [[nodiscard]] virtual bool ready() const noexcept = 0;
  /// Takes the frame to show next. Returns the frame that this one displaces: accepted before and not yet submitted.
  /// Errors: those of the device; the frame is then released.
  [[nodiscard]] virtual Result<Frame> accept(Frame frame) = 0;
  /// Submits what was accepted, all planes of an output together. It is no error if this is not possible yet: a later
  /// dispatch() does it.
  [[nodiscard]] virtual Result<void> flush() = 0;
  /// Moves up to out.size() reports of presented frames to @p out and returns how many.
  [[nodiscard]] virtual std::size_t take_presented(std::span<Presentation> out) noexcept = 0;
  /// How long before its presentation time (FrameInfo::target) a frame is best accepted: for a display half a refresh
  /// period, so that the frame is seen at the refresh nearest to that time. 0 = at that time. May change while started.
  [[nodiscard]] virtual std::chrono::nanoseconds lead_time() const noexcept { return std::chrono::nanoseconds{0}; }
  /// One of the sink's own buffers, to be filled and passed to accept(), for sinks that work that way (a compositor, a
  /// PipeWire node). Default: ENOTSUP.
  [[nodiscard]] virtual Result<Frame> acquire_target();
  /// Submits what was accepted and waits until it is shown. Errors: ETIMEDOUT, ECANCELED, those of the device.
  virtual Result<void> drain(Deadline deadline, const Cancel* cancel) = 0;
  /// Ends the stream, restores what set_input() and start() changed, releases every frame. Stopping twice is allowed.
  virtual Result<void> stop() noexcept = 0;
};

/// Turns frames into other frames: N into M, possibly later and in another order. The frames it produces are either in
/// its own buffers (a Pool) or the frames it took.
class Stage : public Pollable, public Consumer, public Producer {
 public:
  /// True if it passes frames through. Then the devices after it import the buffers of the producer before it, and
  /// start() gets no outputs.
  [[nodiscard]] virtual bool passes_through() const noexcept { return false; }
  /// Gets its input and output buffers and imports each once, here; inputs may be added and removed later
  /// (add_buffer()).
  [[nodiscard]] virtual Result<void> start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) = 0;
  /// True if accept() has a free slot.
  [[nodiscard]] virtual bool ready() const noexcept = 0;
  /// Takes a frame. Errors: EAGAIN (no free slot; the frame is released), those of the device.
  [[nodiscard]] virtual Result<void> accept(Frame frame) = 0;
  /// The next finished frame, or an empty one. Never blocks.
  [[nodiscard]] virtual Result<Frame> take() = 0;
  /// Finishes what it holds; take() then returns the rest. Errors: ETIMEDOUT, ECANCELED, those of the device.
  virtual Result<void> drain(Deadline deadline, const Cancel* cancel) = 0;
  /// Releases every frame and buffer. Stopping twice is allowed.
  virtual Result<void> stop() noexcept = 0;
  /// Bytes it copied since start: counted, never silent.
  [[nodiscard]] virtual std::uint64_t bytes_copied() const noexcept { return 0; }
};

}  // namespace dmaflow
