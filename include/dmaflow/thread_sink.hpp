// ThreadSink: passes each frame to a function in a separate thread: an analysis, an encoder, a file on a slow disk.
//
//     loop's thread:    accept() --> queue of 1 to 32 frames --+
//     worker's thread:                                         +--> wait for the frame's fence --> function
//
// The loop never waits for the function. While the queue is full, ready() is false and the branch's Policy decides:
// latest replaces the oldest frame in the queue, drop_when_full drops the new frame, wait_when_full takes nothing more
// from the source. Use FunctionSink for a function that takes much less time than a frame interval.
#pragma once

#include <dmaflow/cancel.hpp>
#include <dmaflow/device.hpp>
#include <dmaflow/function.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dmaflow {

struct ThreadSinkOptions {
  std::string name = "worker";         ///< for messages; the first 15 bytes also name the thread (see `top -H`)
  std::vector<PixelFormat> formats{};  ///< those it takes; empty = any
  /// What the function needs from the buffers. Default: cached memory, for a CPU that reads (CpuAccess).
  Needs needs{.constraints = {.cached = true}, .usage = {.cpu = true}, .modifiers = {Modifier::linear()}};
  /// The number of frames that may wait for the function, in addition to the one it has: 1 to 32. More frames bridge
  /// longer pauses of the function, and each needs a buffer. With 1, Policy::latest gives the function the newest frame
  /// each time; with 2, the frame may be one frame older, and a function that keeps up never makes the loop wait for a
  /// free slot.
  std::uint32_t queue = 2;
  /// The number of frames that the program holds at once, including the one just passed to the function: 1 to 32. That
  /// many additional buffers are made; a program that holds more keeps the source waiting.
  std::uint32_t max_held = 1;
};

/// A sink for Pipeline::connect(). Every call belongs to the loop's thread; only the function runs in the worker's.
///
/// start() starts the thread and stop() joins it. The thread blocks all signals, so handlers run in the program's own
/// threads, and a write to a closed pipe in the function fails with EPIPE and raises no SIGPIPE.
class ThreadSink final : public Sink {
 public:
  /// Called in the worker's thread, one call at a time, with each frame in order once its fence has signalled. A frame
  /// whose fence failed is dropped. For implicit fences (FrameInfo::has_implicit_fences) CpuAccess waits.
  ///
  /// The function may keep the frame and release it in any thread. @p stop is set while stop() waits for the function
  /// to return: pass it to every wait in the function. The function must not call the sink or its pipeline, and the
  /// program must synchronise whatever the function shares with other threads.
  ///
  /// An error that it returns ends the run with that error; so does an exception: with the error in a
  /// std::bad_expected_access<Error>, or with EIO and its what() for any other exception. The frame is then counted in
  /// dropped(). ECANCELED while @p stop is set is not an error of the run. Pipeline::run() fails with ETIMEDOUT if one
  /// call takes longer than RunOptions::frame_timeout and the queue is full.
  using Callback = Function<Result<void>(Frame frame, const Cancel& stop)>;

  /// Errors: EINVAL (no function; `queue` or `max_held` out of range), EMFILE (two eventfds).
  static Result<std::unique_ptr<ThreadSink>> create(Callback callback, ThreadSinkOptions options = {});
  /// Stops it.
  ~ThreadSink() override;

  /// The stream it was configured for. Constant between start() and stop(), and may then be read in the function.
  [[nodiscard]] const StreamConfig& config() const noexcept;

  [[nodiscard]] std::string_view name() const noexcept override;
  /// Errors: EINVAL (a format that is not among options.formats).
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  /// Errors: those of check(); EBUSY (it is started).
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  [[nodiscard]] Needs needs() const override;
  /// Accepts any buffer: the function itself must check whether it can use it.
  [[nodiscard]] Result<void> import(const Buffer& /*buffer*/) override { return {}; }
  /// Those in the queue and those that the program holds.
  [[nodiscard]] std::uint32_t max_held() const noexcept override;
  /// Frames whose fence failed, for which the function failed, and that were in the queue when it was stopped.
  [[nodiscard]] std::uint64_t dropped() const noexcept override;

  /// An eventfd, readable when the function has failed, and when a slot is free again after ready() was false. Without
  /// either, a frame costs no system call on it. A caller that lets accept() displace frames does not wait for a free
  /// slot, and none is reported to it.
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Errors: that of the function, first from this call and then from every call until stop().
  [[nodiscard]] Result<void> dispatch(short revents) override;

  /// Starts the thread. Errors: EAGAIN (the system's limit of threads).
  [[nodiscard]] Result<void> start(std::span<const Buffer> buffers) override;
  /// False while the queue is full, after the function failed, and while stopped.
  [[nodiscard]] bool ready() const noexcept override;
  /// Puts the frame into the queue. A full queue returns its oldest frame. Errors: that of the function; EINVAL (it is
  /// not started).
  [[nodiscard]] Result<Frame> accept(Frame frame) override;
  /// Errors: that of the function.
  [[nodiscard]] Result<void> flush() override;
  /// None: no frames are presented.
  [[nodiscard]] std::size_t take_presented(std::span<Presentation> /*out*/) noexcept override { return 0; }
  /// Waits until the function has returned for every frame accepted. Errors: ETIMEDOUT, ECANCELED, that of the
  /// function.
  Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  /// Drops what is in the queue, sets the function's Cancel, waits for the current call and ends the thread. Errors:
  /// that of the function, if no other call has returned it yet.
  Result<void> stop() noexcept override;

 private:
  struct Impl;
  explicit ThreadSink(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow
