// The implementation of Pipeline: the streams, and the loop that moves their frames.
//
//     pipeline.cpp           what users call: build, prepare, start, run, stop
//     pipeline_loop.cpp      one iteration of the loop: wait, serve, take; handles devices that fail or change
//     pipeline_changes.cpp   changes while it runs: branches and streams are added and removed
#pragma once

#include "epoll_set.hpp"
#include "progress_watch.hpp"
#include "stream.hpp"
#include "sys/sys.hpp"

#include <dmaflow/pipeline.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <vector>

namespace dmaflow {

struct Pipeline::Impl {
  using Branch = detail::Branch;
  using Clock = Deadline::Clock;
  using EpollSet = detail::EpollSet;
  using Failed = detail::Failed;
  using PerSecond = detail::PerSecond;
  using ProgressWatch = detail::ProgressWatch;
  using Stream = detail::Stream;
  // A GPU emulated by a busy CPU takes seconds to finish its last frames.
  static constexpr auto drain_time = std::chrono::seconds(5);

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (running) static_cast<void>(stop(Deadline::after(drain_time), nullptr));
  }

  std::vector<Stream> streams;
  std::vector<Allocator*> allocators;
  StreamRequest request;
  std::vector<Plan> plans;
  Stats stats;
  PerSecond per_second;
  std::vector<std::uint64_t> before_run;  // captured by each stream before it was started
  std::uint64_t frame_limit = 0;          // RunOptions::frames
  std::optional<Refused> refusal;
  Function<bool(const Failure&)> on_failure;
  bool prepared = false;
  bool running = false;
  bool serving = false;       // devices are being called: their callbacks must not change the streams
  std::uint64_t changes = 0;  // of streams and branches

  // The wait set, whose memory is allocated once. Each element of polls has its owner at the same index in entries.
  struct Entry {
    HoldSet* wake_of = nullptr;  // signals that frames were returned to it
    Pollable* object = nullptr;  // a stage, a sink, or an object given to watch()
    bool is_watched = false;     // the object was given to watch()
    bool is_fence = false;       // not the object's own descriptor, but a fence it waits for
  };
  std::vector<pollfd> polls;
  std::vector<Entry> entries;
  std::vector<Pollable*> watched;
  struct Due {
    Pollable* object = nullptr;
    short revents = 0;
  };
  std::vector<Due> due;           // the watched objects to serve in this iteration
  Clock::time_point wake{};       // the earliest wake_by() of all objects and branches
  Clock::time_point now{};        // when this iteration's wait returned
  std::optional<EpollSet> epoll;  // set if the program has its own loop
  std::vector<EpollSet::Wanted> wanted;

  // pipeline.cpp
  [[nodiscard]] std::vector<Stream>::iterator stream_of(const Source& source) noexcept {
    return std::ranges::find_if(streams, [&](const Stream& stream) { return &stream.source() == &source; });
  }
  [[nodiscard]] std::size_t index_of(std::vector<Stream>::iterator stream) noexcept {
    return static_cast<std::size_t>(stream - streams.begin());
  }
  [[nodiscard]] const StreamRequest& wishes_for(std::size_t index) const noexcept {
    return streams[index].request() ? *streams[index].request() : request;
  }
  Result<void> check_branch(const Source& source, const Sink& sink, const std::string& name,
                            const BranchOptions& options) const;
  Result<void> prepare_stream(std::size_t index, const StreamRequest& wishes);
  void note_plans();
  void reserve();
  Result<void> start();
  Result<void> start_stream(std::size_t index);
  /// Negotiates and starts the stream. On an error it is stopped.
  Result<void> bring_up(std::size_t index, const StreamRequest& wishes);
  Result<void> stop_stream(std::size_t index, Deadline deadline, const Cancel* cancel) {
    if (epoll) epoll->distrust();
    return streams[index].stop(deadline, cancel, stats.streams[index], per_second);
  }
  Result<void> stop(Deadline deadline, const Cancel* cancel);
  Result<void> loop(const RunOptions& options, ProgressWatch& watch);
  [[nodiscard]] std::uint64_t captured() const noexcept;  // in this run
  [[nodiscard]] bool all_ended() const noexcept { return std::ranges::all_of(streams, &Stream::is_done); }

  // pipeline_loop.cpp
  /// Adds a descriptor to the wait set, if there is one and something to wait for. Its index, or Stream::no_poll.
  std::size_t wait_for(int fd, short events, const Entry& entry);
  void wait_for(Pollable& object, bool is_watched = false);
  void note_wake(std::optional<Deadline> by) {
    if (by) wake = std::min(wake, by->time());
  }
  void clear_wait_set() noexcept {
    polls.clear();
    entries.clear();
    wake = Clock::time_point::max();
  }
  bool fill_wait_set();
  Result<bool> step(Deadline deadline, std::span<const int> stop_fds, bool* stopped);
  Result<void> arm();
  void disarm() noexcept;
  Result<void> dispatch();
  Result<void> turn(std::size_t first_entry);
  Result<void> serve(std::size_t first_entry);
  [[gnu::noinline]] Result<void> serve_watched(std::size_t first_entry);
  [[gnu::noinline]] Result<void> dispatch_to(Pollable& object, short revents);
  [[gnu::noinline]] Result<void> wake_objects();
  Result<void> serve_stream(std::size_t index, short revents);
  std::expected<bool, Failed> take_frames(std::size_t index);
  [[nodiscard]] bool is_enough(std::size_t index) const noexcept;
  /// Asks the program about a failure. Returns success if the others continue, else the error of the failure.
  [[gnu::noinline]] Result<void> survive(std::size_t index, const Failed& failure);
  [[gnu::noinline]] Result<void> renegotiate(std::size_t index);
  /// Moves on the frames that wait in the branches.
  [[gnu::noinline]] std::expected<void, Failed> advance_waiting(std::size_t index);

  // pipeline_changes.cpp
  [[nodiscard]] Result<void> check_quiet(const char* operation) const;
  struct Place {
    std::size_t stream = 0;
    std::size_t branch = 0;
  };
  [[nodiscard]] Result<Place> place_of(const Sink& sink, const char* operation) const;
  [[nodiscard]] Result<std::size_t> find_stream(const Source& source, const char* operation);
  Result<void> begin_branch(std::size_t index);
  Result<void> restart(std::size_t index, const StreamRequest& wishes, Deadline deadline);
  Result<void> note_change();
};

}  // namespace dmaflow
