// Pipeline: frames from sources through stages to sinks, in one loop, in one thread.
//
//     camera --+-- "screen"   (latest)          --> display
//              +-- "recorder" (drop when full)  --> file
//
// Each branch has its own policy and its own limit, so a slow branch loses only its own frames. If it may lose none,
// the pipeline takes no more frames from the source than the branch can take. In the steady state the loop allocates,
// imports, copies and prints nothing; it makes one system call to wait, and the devices make theirs.
#pragma once

#include <dmaflow/cancel.hpp>
#include <dmaflow/device.hpp>
#include <dmaflow/function.hpp>
#include <dmaflow/negotiate.hpp>
#include <dmaflow/stats.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dmaflow {

/// What a branch does with frames when its sink is not ready for them.
enum class Policy : std::uint8_t {
  latest,          ///< the newest replaces the waiting one: for displays
  drop_when_full,  ///< they wait in order, up to the limit; beyond it, a new one is dropped: for recording a camera
  /// They wait in order; at the limit nothing is taken from the source until a slot is free, so the source's other
  /// branches get no more frames either. Loses nothing while it runs: for a file that is decoded, encoded, or analysed.
  /// A camera continues anyway, and drops images itself if it has no buffer left (StreamStats::lost).
  wait_when_full,
  /// Each frame is shown at its FrameInfo::target (never more than Sink::lead_time() before it), and a frame without a
  /// target as soon as possible. Frames wait in order; at the limit nothing is taken from the source. If several frames
  /// are due, the newest of them is shown and the others are dropped (Drops::late): for media with a clock.
  on_time,
};

struct BranchOptions {
  Policy policy = Policy::latest;
  /// The number of frames that may wait for this branch's sink, in addition to those in the sink: 1 to 32. With
  /// Policy::latest no frame waits outside the sink.
  std::uint32_t max_queued = 4;
  /// Between source and sink, in order. They and the sink must outlive the pipeline.
  std::vector<Stage*> stages{};
  /// Called in the loop's thread for each frame that the sink reports as seen, e.g. to synchronise sound. A display
  /// reads the flips of several frames at once, unless frames come rarely or have a target: then it reports each as
  /// soon as it is seen.
  Function<void(const Presentation&)> on_presented{};
  /// What is wanted in this branch, in place of what the stream is asked: `interval`: the branch takes at most one
  /// frame in this time, and the others count as BranchStats::skipped; `size` and `formats`: of the images that its
  /// last stage with buffers of its own makes (vulkan::Convert); `allocator` and `buffers`: of the links behind its
  /// stages; `allow_copy`: whether a copy of each frame may be inserted. `spare_buffers` must be 0. nullopt: every
  /// frame, any size and format, and for the rest the stream's request.
  std::optional<StreamRequest> request{};
  /// For connect() while the pipeline runs: whether the source's stream may be stopped and started again if its running
  /// buffers are too few or do not suit the new sink. Frames in flight are delivered first; a camera misses some
  /// meanwhile (StreamStats::lost).
  bool may_restart = false;
};

/// A device that failed while the others can continue.
struct Failure {
  Source* source = nullptr;
  Sink* sink = nullptr;     ///< of the branch in which a stage or the sink failed; null: the source itself did
  std::string_view name{};  ///< of the source or the branch; valid during the call
  const Error& error;
};

struct RunOptions {
  /// Ends the run, without an error, once it is set from another thread or a signal handler. Must outlive the run.
  const Cancel* cancel = nullptr;
  /// Ends the run when readable (a signalfd, see stop.hpp); -1 = none. The caller keeps ownership, and nothing is read
  /// from it.
  int stop_fd = -1;
  /// Ends the run after this time; unset = runs until stopped.
  std::optional<std::chrono::nanoseconds> duration{};
  /// Ends the run after this many captured frames of every stream; 0 = no limit.
  std::uint64_t frames = 0;
  /// If a source delivers no frame for this long, or a branch takes none although frames wait, the run fails with
  /// ETIMEDOUT and the error names it. The time starts again at each start of a stream; it does not apply to a
  /// participant that waits for an external event (Participant::is_waiting).
  std::chrono::nanoseconds frame_timeout = std::chrono::seconds(5);
  /// Called in the loop's thread about once a second.
  std::function<void(const Stats&)> progress{};
};

/// Connects devices and moves their frames. Not synchronised: one thread builds, changes and runs it; others use a
/// TaskQueue that it watches. The devices must outlive it.
class Pipeline {
 public:
  Pipeline();
  ~Pipeline();
  Pipeline(Pipeline&&) noexcept;
  Pipeline& operator=(Pipeline&&) noexcept;

  /// Adds the source, if it is new, and a branch from it to @p sink. While the pipeline runs, a new source is
  /// negotiated and started, and a new branch of a running source gets the existing buffers, so that the other branches
  /// lose nothing. StreamRequest::spare_buffers must then have included the buffers that the branch holds
  /// (BranchOptions::max_queued and what its sink or first stage holds). On an error everything continues as before.
  /// Errors: EINVAL (the sink has a branch already; a stage is null or already in use; a limit is out of range; the
  /// name is empty, or another branch of this source has it), EBUSY (prepared but not started; called from inside a
  /// sink's, a stage's or a failure's function: use a TaskQueue); while running also ENOBUFS (too few buffers:
  /// BranchOptions::may_restart was not set), the sink's errors for the running buffers, and those of prepare() and
  /// start().
  Result<void> connect(Source& source, Sink& sink, std::string name = "screen", BranchOptions options = {});
  /// Removes the branch to @p sink. While the pipeline runs, the branch's frames in flight are delivered until the
  /// deadline or @p cancel, then its stages and its sink are stopped. Meanwhile the loop does nothing else, so pass
  /// Deadline::immediate(), or pause() the branch first and remove it once BranchStats::held is 0. Its counters move to
  /// StreamStats::removed. A source without a branch is stopped. Errors after which the branch is removed anyway:
  /// ETIMEDOUT, ECANCELED, those of the devices. Errors before: EINVAL (no branch has this sink), EBUSY (as connect()).
  Result<void> remove(const Sink& sink, Deadline deadline, const Cancel* cancel = nullptr);
  /// Gives the branch no more frames; those it has are delivered, and a display keeps showing the last one. The frames
  /// it does not get are counted in BranchStats::skipped. Allowed at any time, and twice. Errors: EINVAL (no branch has
  /// this sink).
  Result<void> pause(const Sink& sink);
  /// Gives the branch frames again. Errors: EINVAL (no branch has this sink, or it failed: remove it).
  Result<void> resume(const Sink& sink);
  /// Releases every frame of this source that waits in its branches or is in their stages, e.g. for a seek in a file;
  /// frames that sinks have accepted stay. Counted in Drops::discarded. Allowed at any time. Errors: EINVAL (no such
  /// source).
  Result<void> discard(const Source& source);
  /// Sets the request for this source alone. It replaces the one given to prepare(), so that two cameras may have
  /// different sizes. It takes effect at the next negotiation. Errors: EINVAL (the source has no branch).
  Result<void> request(const Source& source, StreamRequest wanted);
  /// The same, immediately: delivers the frames in flight until the deadline, negotiates this stream and starts it
  /// again; the others continue. If @p wanted is refused, the stream continues as it was, and refusal() has the
  /// candidates. Errors: EINVAL (no such source), EBUSY (as connect(); not running), those of prepare() and start().
  Result<void> reconfigure(const Source& source, StreamRequest wanted, Deadline deadline);
  /// Offers an allocator to every negotiation, in addition to the devices' own.
  void offer(Allocator& allocator);
  /// Sets what happens when a device fails while frames move. @p function is called in the loop's thread. If it returns
  /// true, the branch in which a stage or sink failed is stopped, or the source's stream if the source failed, and the
  /// others continue; a stream whose branches have all failed is stopped. If it returns false, or there is no function,
  /// the run ends with the error. A device without progress for RunOptions::frame_timeout counts as failed.
  void on_failure(Function<bool(const Failure&)> function);
  /// Serves another object in the same loop: monitor hotplug (kms::Device::hotplug()), VT switches (kms::VtSwitch),
  /// tasks from other threads (TaskQueue), anything that waits. It is called between two iterations of the loop, so the
  /// functions that it calls may change the pipeline. Not to be called from inside a function that the loop called.
  void watch(Pollable& object);

  /// Negotiates every link, allocates the buffers and imports each into every device; nothing is imported later. Starts
  /// nothing. Returns the plan of each link, the sources' first. Errors: EINVAL (no source was connected), EBUSY (it is
  /// running), and Refused::error if nothing works: refusal() then has every candidate, and nothing is kept.
  [[nodiscard]] Result<std::vector<Plan>> prepare(const StreamRequest& request = {});

  /// Prepares if that was not done, starts the devices, moves frames until stopped, then drains and stops the devices.
  /// A source that changes meanwhile (Participant::take_changed) is drained and negotiated again. A camera that lost
  /// its signal (ENOLINK) is waited for. Errors: the first device error that ended the run, after which everything is
  /// stopped; ETIMEDOUT; those of prepare(), whose candidates refusal() keeps.
  Result<void> run(const RunOptions& options = {});

  /// For the program's own loop, instead of run(): start(), then step() repeatedly until ended(), then stop().
  Result<void> start();
  /// Waits until a device has work, or until the deadline, and does the work. False at the deadline. Errors: ECANCELED,
  /// EINVAL (not started), those of the devices.
  Result<bool> step(Deadline deadline, const Cancel* cancel = nullptr);
  /// For the loop of another library (GLib, libuv, asio, sd-event, ...), instead of step(): an epoll descriptor,
  /// readable (POLLIN) while there is work, including devices' timers. Wait for it, then call dispatch(). poll_fd() may
  /// be called before start(). The descriptor is the same until the pipeline is destroyed, and the pipeline owns it;
  /// while stopped it is never readable. Errors: those of epoll_create1(), epoll_ctl() and timerfd_create(); EPERM if a
  /// device's descriptor cannot be waited for.
  [[nodiscard]] Result<int> poll_fd();
  /// Does all pending work, and never waits. An unnecessary call costs one system call and is harmless. Must not be
  /// mixed with step(). Errors: EINVAL (not started, or poll_fd() was not called), those of the devices: then call
  /// stop(). The program itself must implement two time-outs of run(): frame_timeout and duration.
  Result<void> dispatch();
  /// True once every source has ended, was stopped individually or failed, and the frames that Policy::wait_when_full
  /// and on_time keep have been delivered: time to call stop().
  [[nodiscard]] bool ended() const noexcept;
  /// Stops one stream, as stop() does; the others continue. It stays in the pipeline. Errors: EINVAL (no such source),
  /// EBUSY (as connect()), those of stop().
  Result<void> stop(const Source& source, Deadline deadline, const Cancel* cancel = nullptr);
  /// Starts a stream again that was stopped individually, failed or ended; it is negotiated first. Does nothing if it
  /// runs. Errors: EINVAL (no such source), EBUSY (as connect(); the pipeline does not run), those of prepare() and
  /// start().
  Result<void> start(const Source& source);
  /// Drains until the deadline or @p cancel, and stops every device in any case. Errors: ETIMEDOUT and ECANCELED (the
  /// frames in flight are counted in Drops::at_stop or by_device), the first of the devices.
  Result<void> stop(Deadline deadline, const Cancel* cancel = nullptr);

  /// The current plans; empty before prepare().
  [[nodiscard]] const std::vector<Plan>& plans() const noexcept;
  /// Why the last prepare(), or the last negotiation in start(), run(), step() or dispatch(), found no plan; empty if
  /// it found one. Set whenever prepare() fails, so that a program can print refusal()->explain().
  [[nodiscard]] const std::optional<Refused>& refusal() const noexcept;
  [[nodiscard]] const Stats& stats() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow
