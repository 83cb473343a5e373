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
#include <dmaflow/negotiate.hpp>
#include <dmaflow/stats.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
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
};

struct BranchOptions {
  Policy policy = Policy::latest;
  /// Frames that may wait for this branch's sink, beside those in the sink: 1 to 32. With Policy::latest nothing
  /// beyond the sink's own place waits.
  std::uint32_t max_queued = 4;
  /// Between source and sink, in order. They and the sink outlive the pipeline.
  std::vector<Stage*> stages{};
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

/// Joins devices and moves their frames. Not synchronised: one thread builds and runs it. The devices outlive it.
class Pipeline {
 public:
  Pipeline();
  ~Pipeline();
  Pipeline(Pipeline&&) noexcept;
  Pipeline& operator=(Pipeline&&) noexcept;

  /// Adds a source, or finds it again, and adds a branch of it to @p sink.
  /// Errors: EINVAL (the sink has a branch already; a stage is null or stands somewhere already; a limit out of range;
  /// no name, or one that another branch of this source has), EBUSY (prepared already).
  Result<void> connect(Source& source, Sink& sink, std::string name = "screen", BranchOptions options = {});
  /// Sets the request for this source alone. It replaces the one given to prepare(), so that two cameras may have
  /// different sizes. It takes effect at the next negotiation. Errors: EINVAL (the source has no branch).
  Result<void> request(const Source& source, StreamRequest wanted);
  /// Offers an allocator to every negotiation, beside the devices' own.
  void offer(Allocator& allocator);
  /// Serves another object in the same loop: monitors plugged in and out (kms::Device::hotplug()), switches of the VT
  /// (kms::VtSwitch), anything that waits. Before start().
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
  /// True once every source has ended, and what Policy::wait_when_full keeps has been delivered: time to stop().
  [[nodiscard]] bool ended() const noexcept;
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
