// Pipeline: frames from sources through stages to sinks, in one loop, in one thread.
//
//     camera --+-- "screen"   (latest)          --> display
//              +-- "recorder" (drop when full)  --> file
//
// Each branch has its own policy and its own limit, so a slow one loses its own frames and nobody else's, or, where it
// may lose none, the source is asked for no more than it takes. In the steady state the loop allocates nothing, imports
// nothing, copies nothing and prints nothing; it makes one system call to wait, and the devices make theirs.
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

/// What a branch does with frames its sink is not ready for.
enum class Policy : std::uint8_t {
  latest,          ///< the newest replaces what waits: for displays
  drop_when_full,  ///< they wait in order, up to the limit; over it, the new one is dropped: for recorders of a camera
  /// They wait in order; at the limit nothing is taken from the source until there is room, and so the source's other
  /// branches get no more either. Loses nothing while it runs: for a file that is decoded, encoded, or analysed. A
  /// camera goes on all the same, and drops images itself where it has no buffer left (StreamStats::lost).
  wait_when_full,
  /// Each is shown when FrameInfo::target says (never more than Sink::lead_time() before it); one without a target as
  /// soon as possible. They wait in order; at the limit nothing is taken from the source. Where the times of several
  /// have come, the newest of those is shown and the others are dropped (Drops::late): for media with a clock.
  on_time,
};

struct BranchOptions {
  Policy policy = Policy::latest;
  /// Frames that may wait for this branch's sink, beside those in the sink: 1 to 32. With Policy::latest nothing
  /// beyond the sink's own place waits.
  std::uint32_t max_queued = 4;
  /// Between source and sink, in order. They and the sink outlive the pipeline.
  std::vector<Stage*> stages{};
  /// Called in the loop's thread for each frame that the sink reports as seen, e.g. for the sound to follow. A display
  /// reads the flips of several frames at once, unless the frames come rarely or have a target: then it reports each as
  /// soon as it is seen.
  Function<void(const Presentation&)> on_presented{};
  /// For connect() while the pipeline runs: whether the source's stream may be stopped and started again where its
  /// running buffers are too few or do not suit the new sink. Frames under way are delivered first; a camera misses
  /// some meanwhile (StreamStats::lost).
  bool may_restart = false;
};

/// A device that failed while the others can go on.
struct Failure {
  Source* source = nullptr;
  Sink* sink = nullptr;     ///< of the branch in which a stage or the sink failed; null: the source itself did
  std::string_view name{};  ///< of the source or the branch; valid during the call
  const Error& error;
};

struct RunOptions {
  /// Ends the run, without an error, once it is set: from another thread or a signal handler. Outlives the run.
  const Cancel* cancel = nullptr;
  /// Ends the run when readable (a signalfd, see stop.hpp); -1 = none. Stays the caller's, and nothing is read from it.
  int stop_fd = -1;
  /// Ends the run after this time; unset = runs until stopped.
  std::optional<std::chrono::nanoseconds> duration{};
  /// Ends the run after this many captured frames of every stream; 0 = no limit.
  std::uint64_t frames = 0;
  /// Where one of the sources gives no frame for this long, or one of the branches takes none though frames wait, the
  /// run fails with ETIMEDOUT and names it. Each start of a stream begins anew; a participant that waits for something
  /// outside (Participant::is_waiting) is not counted.
  std::chrono::nanoseconds frame_timeout = std::chrono::seconds(5);
  /// Called in the loop's thread about once a second.
  std::function<void(const Stats&)> progress{};
};

/// Joins devices and moves their frames. Not synchronised: one thread builds, changes and runs it; others use a
/// TaskQueue that it watches. The devices outlive it.
class Pipeline {
 public:
  Pipeline();
  ~Pipeline();
  Pipeline(Pipeline&&) noexcept;
  Pipeline& operator=(Pipeline&&) noexcept;

  /// Adds a source, or finds it again, and adds a branch of it to @p sink. While the pipeline runs, a new source is
  /// negotiated and started, and a new branch of a running one gets the buffers that are there, so that the other
  /// branches lose nothing: StreamRequest::spare_buffers must have asked for as many more as it
  /// holds (BranchOptions::max_queued and what its sink or first stage holds). On an error everything goes on as
  /// before. Errors: EINVAL (the sink has a branch already; a stage is null or stands somewhere already; a limit out of
  /// range; no name, or one that another branch of this source has), EBUSY (prepared but not started; called from
  /// inside a sink's, a stage's or a failure's function: use a TaskQueue); while running also ENOBUFS (too few buffers:
  /// BranchOptions::may_restart was not set), what the sink says to the running buffers, and those of prepare() and
  /// start().
  Result<void> connect(Source& source, Sink& sink, std::string name = "screen", BranchOptions options = {});
  /// Takes the branch to @p sink out. While the pipeline runs, what it has under way is delivered until the deadline or
  /// @p cancel, then its stages and its sink are stopped; meanwhile the loop does nothing else, so give it
  /// Deadline::immediate(), or pause() the branch first and remove it once BranchStats::held is 0. Its counters move to
  /// StreamStats::removed. A source without a branch is stopped. Errors, after which it is removed all the same:
  /// ETIMEDOUT, ECANCELED, those of the devices; before: EINVAL (no branch has this sink), EBUSY (as connect()).
  Result<void> remove(const Sink& sink, Deadline deadline, const Cancel* cancel = nullptr);
  /// Gives the branch no more frames; what it has is delivered, and a display goes on showing the last. They are
  /// counted in BranchStats::skipped. Allowed at any time, and twice. Errors: EINVAL (no branch has this sink).
  Result<void> pause(const Sink& sink);
  /// Gives it frames again. Errors: EINVAL (no branch has this sink, or it failed: remove it).
  Result<void> resume(const Sink& sink);
  /// Lets go of every frame of this source that waits in its branches or is in their stages, as for a jump in a file;
  /// what sinks have accepted stays. Counted in Drops::discarded. Allowed at any time. Errors: EINVAL (no such source).
  Result<void> discard(const Source& source);
  /// Sets the request for this source alone. It replaces the one given to prepare(), so that two cameras may have
  /// different sizes. It takes effect at the next negotiation. Errors: EINVAL (the source has no branch).
  Result<void> request(const Source& source, StreamRequest wanted);
  /// The same, now: delivers what is under way until the deadline, negotiates this stream and starts it again; the
  /// others go on. Where @p wanted is refused, the stream goes on as it was, and refusal() has the candidates. Errors:
  /// EINVAL (no such source), EBUSY (as connect(); not running), those of prepare() and start().
  Result<void> reconfigure(const Source& source, StreamRequest wanted, Deadline deadline);
  /// Offers an allocator to every negotiation, beside the devices' own.
  void offer(Allocator& allocator);
  /// What to do when a device fails while frames move. @p function is called in the loop's thread. True: the branch in
  /// which a stage or sink failed, or the source's stream where the source did, is stopped, and the others go on; a
  /// stream whose branches have all failed is stopped. False, or without a function: the run ends with the error.
  /// A device that stands still for RunOptions::frame_timeout counts as failed.
  void on_failure(Function<bool(const Failure&)> function);
  /// Serves another object in the same loop: monitors plugged in and out (kms::Device::hotplug()), switches of the VT
  /// (kms::VtSwitch), tasks of other threads (TaskQueue), anything that waits. It is called between two turns of the
  /// loop, and so what it calls may change the pipeline. Not from inside a function that the loop called.
  void watch(Pollable& object);

  /// Negotiates every link, makes the buffers and imports each everywhere: after it, nothing is imported. Starts
  /// nothing. Returns the plan of each link, the sources' first. Errors: EINVAL (no source was connected), EBUSY (it is
  /// running), and Refused::error where nothing works: refusal() then has every candidate, and nothing is kept.
  [[nodiscard]] Result<std::vector<Plan>> prepare(const StreamRequest& request = {});

  /// Prepares where that was not done, starts the devices, moves frames until stopped, drains and stops the devices.
  /// A source that changes under way (Participant::take_changed) is drained and negotiated anew.
  /// A camera that lost its signal (ENOLINK) is waited for. Errors: the first device error that ended the run, after
  /// which all is stopped; ETIMEDOUT; those of prepare(), whose candidates refusal() keeps.
  Result<void> run(const RunOptions& options = {});

  /// For a loop of one's own, instead of run(): start(), then step() again and again until ended(), then stop().
  Result<void> start();
  /// Waits until a device has something, or the deadline, and does it. False at the deadline. Errors: ECANCELED, EINVAL
  /// (not started), those of the devices.
  Result<bool> step(Deadline deadline, const Cancel* cancel = nullptr);
  /// For the loop of another library (GLib, libuv, asio, sd-event, ...), instead of step(): an epoll descriptor,
  /// readable (POLLIN) while there is something to do, devices' timers included. Wait for it, then call dispatch(). It
  /// may be asked for before start(), is the same until the pipeline is destroyed, and stays the pipeline's; while
  /// stopped it is never readable. Errors: those of epoll_create1(), epoll_ctl() and timerfd_create(); EPERM where a
  /// device's descriptor cannot be waited for.
  [[nodiscard]] Result<int> poll_fd();
  /// Does what there is to do now, and never waits. A call without need costs one system call, and is harmless. Not to
  /// be mixed with step(). Errors: EINVAL (not started, or poll_fd() was not asked for), those of the devices: then
  /// stop(). Two time-outs of run() are the program's own affair here: frame_timeout and duration.
  Result<void> dispatch();
  /// True once every source has ended, was stopped alone or failed, and what Policy::wait_when_full and on_time keep
  /// has been delivered: time to stop().
  [[nodiscard]] bool ended() const noexcept;
  /// Stops one stream, as stop() does; the others go on. It stays in the pipeline. Errors: EINVAL (no such source),
  /// EBUSY (as connect()), those of stop().
  Result<void> stop(const Source& source, Deadline deadline, const Cancel* cancel = nullptr);
  /// Starts a stream again that was stopped alone, failed or ended; it is negotiated first. Does nothing where it runs.
  /// Errors: EINVAL (no such source), EBUSY (as connect(); the pipeline does not run), those of prepare() and start().
  Result<void> start(const Source& source);
  /// Drains until the deadline or @p cancel, and stops every device in any case. Errors: ETIMEDOUT and ECANCELED (what
  /// was under way is counted in Drops::at_stop or by_device), the first of the devices.
  Result<void> stop(Deadline deadline, const Cancel* cancel = nullptr);

  /// The plans in force; empty before prepare().
  [[nodiscard]] const std::vector<Plan>& plans() const noexcept;
  /// Why the last prepare(), or the last negotiation in start(), run(), step() or dispatch(), found no plan; empty
  /// where it found one. Set whenever prepare() fails, so that a program can print refusal()->explain().
  [[nodiscard]] const std::optional<Refused>& refusal() const noexcept;
  [[nodiscard]] const Stats& stats() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow
