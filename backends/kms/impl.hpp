// The internals of Device, Output and Plane. One thread uses them all.
#pragma once

#include "atomic.hpp"
#include "drm_file.hpp"
#include "dumb.hpp"
#include "framebuffer.hpp"
#include "objects.hpp"
#include "ring.hpp"
#include "saved_state.hpp"

#include <dmaflow/kms.hpp>

#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dmaflow::kms {

/// How many flip events may be outstanding before they are read: 32 of the 128 that fit into the kernel's 4096 bytes
/// per file.
inline constexpr std::uint32_t event_batch = 32;

/// How long stop() waits for the display to finish, and again for it to accept the previous state.
inline constexpr std::chrono::seconds stop_time{1};

/// The driver's name; empty if this is not a DRM file.
[[nodiscard]] std::string driver_of(int fd);
/// "/dev/dri/card0", ... in order.
[[nodiscard]] std::vector<std::string> card_paths();

/// Where a plane shows its frames, as tried with the driver.
struct Place {
  const PlaneObject* plane = nullptr;
  ModeEntry mode;
  Rect source;    // of the frame, in pixels
  Rect position;  // on the screen
};

/// The outcome of a commit that was waited for.
struct Outcome {
  int result = 0;    // -errno; -ETIMEDOUT: the CRTC was busy until the deadline, and nothing was changed
  Fence unfinished;  // set if accepted, but not on the screen at the deadline; signals once it is
};

/// A frame that a display may still read, although its output or plane no longer exists.
struct LeftOnScreen {
  static constexpr std::uint64_t until_restored = ~std::uint64_t{0};
  std::uint16_t output = 0;
  std::uint64_t commit = 0;  // once this one is on the screen, the frame is no longer read
  Frame frame;
};

struct Device::Impl {
  Fd owned;
  DrmFile file;
  bool is_nonblocking = false;
  bool took_master = false;
  bool paused = false;
  Objects objects;
  DumbAllocator dumb{file};
  std::vector<std::unique_ptr<Output>> outputs;
  std::unique_ptr<Hotplug> hotplug;
  Deadline::Clock::time_point look_again{};  // while paused: when to check whether it is master again
  std::uint32_t outstanding = 0;             // flip events requested and not yet read
  std::uint64_t configurations = 0;          // counts set_input() calls of all planes
  std::uint16_t next_output = 1;
  std::vector<LeftOnScreen> left_on_screen;  // capacity is reserved when a plane is made
  std::optional<std::uint32_t> pitch_alignment;

  ~Impl() { detach(); }
  void detach() noexcept;
  /// Stops and destroys the planes of an output.
  static void end(Output& output) noexcept;
  [[nodiscard]] Result<void> check_alive(const char* operation) const noexcept {
    if (file.fd >= 0) [[likely]]
      return {};
    return std::unexpected(Error::os(ENODEV, operation, file.name).detail("the device was detached"));
  }
  /// SET_MASTER. Errors: EACCES, EBUSY; the detail says what to do.
  [[nodiscard]] Result<void> take_master() const noexcept;
  /// Reads the available events. Never blocks.
  [[nodiscard]] Result<void> read_events() noexcept;
  [[nodiscard]] Result<void> dispatch(short revents) noexcept;
  void on_flip(std::uint64_t user_data, std::chrono::nanoseconds when) noexcept;
  /// Holds a frame until that commit is on the screen, or until the device is detached.
  void leave_on_screen(std::uint16_t output, std::uint64_t commit, Frame frame) noexcept;
  /// Releases the frames that an output's commits up to this one replaced.
  void take_off_screen(std::uint16_t output, std::uint64_t commit) noexcept;
  /// The alignment of a row of 32-bit pixels in the driver's own memory; 0 if it has none. Tried once.
  [[nodiscard]] std::uint32_t find_pitch_alignment() noexcept;
  /// Sets everything again. It must be master.
  [[nodiscard]] Result<void> resume() noexcept;
  /// Commits the staged frames of outputs that no longer have to wait.
  [[nodiscard]] Result<void> commit_waiting() noexcept;
  /// Reads the connectors again after a hotplug report.
  void look_at_connectors();

  [[nodiscard]] static Result<std::unique_ptr<Device>> make(Fd& fd, std::string path);
};

struct Output::Impl {
  Device::Impl& device;
  std::string name;
  std::uint16_t number = 0;  // in the user data of flip events
  OutputOptions options;
  ConnectorObject* connector = nullptr;
  const CrtcObject* crtc = nullptr;
  std::vector<Mode> modes;
  std::vector<std::unique_ptr<Plane>> planes;

  std::optional<ModeEntry> mode;
  Blob mode_blob;
  std::optional<SavedState> saved;
  std::vector<std::uint32_t> used_planes;  // those that frames were shown on
  AtomicRequest request;
  bool wants_out_fences = false;
  std::int32_t out_fence_fd = -1;        // written by the kernel
  Fence out_fence;                       // of the newest commit
  ConnectorObject* writeback = nullptr;  // left on the CRTC by capture()
  bool is_lit = false;                   // our mode and connector are set
  bool has_touched = false;              // something was committed, so there is something to restore
  bool must_relight = false;             // everything must be set again, even if nothing new is staged
  bool in_flight = false;                // the last commit is not known to be on the screen
  bool is_parked = false;                // the next commit was, or would be, refused: it waits for the flip event
  bool is_stuck = false;                 // a stop() timed out; until the flip ends, the next stop() does not wait
  bool is_blocked = false;               // refused with EBUSY, but no flip of ours is pending: tried again at ask_again
  Deadline::Clock::time_point ask_again{};  // blocked: when to try again
  Deadline::Clock::time_point give_up{};    // blocked: when to stop trying
  /// The loop wakes up for the flip event: frames are rare or have a target, or the screen was just turned on.
  bool is_slow = false;
  /// In step with the source: it runs at the display's rate, and its frames arrive just before the flip ends. Each
  /// frame is then committed when the next one arrives (output.cpp, is_deferring()).
  bool is_in_step = false;
  Deadline::Clock::time_point commit_by{};  // in step: when to commit if no other frame arrives
  std::uint32_t refusals = 0;               // consecutive frames that found the display not done
  std::uint64_t refused_after = 0;          // the number of commits at the last of them
  std::uint64_t commits = 0;
  std::uint64_t lighting_commit = 0;  // the last that set the mode
  std::uint32_t unread = 0;           // flip events of this output requested and not yet read
  std::chrono::nanoseconds last_captured{0};

  Impl(Device::Impl& d, std::string n) : device(d), name(std::move(n)) {}
  [[nodiscard]] Error error(int negative_errno, const char* operation) const noexcept {
    return Error::os(-negative_errno, operation, name);
  }

  // output.cpp
  [[nodiscard]] bool has_staged() const noexcept;
  [[nodiscard]] bool has_following() const noexcept;
  /// Whether a staged frame can be committed: no fence holds it back.
  [[nodiscard]] bool has_committable() noexcept;
  /// After the driver refused a commit with fences: waits for them in this process from now on. False if it had none.
  [[nodiscard]] bool hold_for_fences() noexcept;
  /// What staged frames wait for in this process; -1 = nothing.
  [[nodiscard]] int waiting_fence() const noexcept;
  [[nodiscard]] bool is_waiting() const noexcept;  // staged frames wait for a flip event
  /// In step, and the staged frames still wait for the next frame to arrive.
  [[nodiscard]] bool is_deferring() const noexcept;
  /// When to commit the staged frames if no other frame arrives.
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept;
  /// A commit was refused because the display was not done: decides how to wait for it.
  void refused() noexcept;
  /// Restarts the time until the staged frames must be committed.
  void keep_step() noexcept;
  /// Of the mode; that of 60 Hz if it is not known.
  [[nodiscard]] std::chrono::nanoseconds refresh_period() const noexcept;
  /// Commits the staged frames, or parks the output.
  [[nodiscard]] Result<void> commit() noexcept;
  /// Commits everything: connector, CRTC, mode, each plane with its newest frame.
  [[nodiscard, gnu::noinline]] int commit_all() noexcept;
  /// Turns off another CRTC that drives our connector, in a commit of its own. A commit that also asked for our flip
  /// event would cause an event of that CRTC too, or be refused if that CRTC is off.
  [[nodiscard]] int free_connector() noexcept;
  [[nodiscard]] int commit_staged() noexcept;
  /// The same for several planes, or for one that needs more than a new framebuffer.
  [[nodiscard, gnu::noinline]] int commit_planes() noexcept;
  [[nodiscard]] int submit(std::uint32_t flags) noexcept;
  /// The user data of the next commit's flip event: this output's number and the commit's.
  [[nodiscard]] std::uint64_t next_user_data() const noexcept { return std::uint64_t{number} << 48U | (commits + 1); }
  /// Commits one framebuffer on one plane and waits until it is on the screen. Asks for no event.
  [[nodiscard]] Outcome commit_now(Plane::Impl& plane, std::uint32_t framebuffer) noexcept;
  [[gnu::noinline]] void note_used(std::uint32_t plane);
  /// Handles a failed commit: the output is parked, paused or blocked, or it is an error.
  [[nodiscard, gnu::noinline]] Result<void> settle(int result) noexcept;
  /// After mastership came back: sets everything again, whatever another master left.
  [[nodiscard]] Result<void> relight() noexcept;
  void committed() noexcept;
  /// The last commit is on the screen: releases what it replaced.
  void completed() noexcept;
  void on_flip(std::uint64_t commit, std::chrono::nanoseconds when) noexcept;
  [[nodiscard]] Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) noexcept;

  // bounded.cpp
  /// Makes a nonblocking commit, repeated until @p taken while the CRTC is busy; then waits until @p done for it to be
  /// on the screen of @p on. Appends to @p wanted. If the commit is accepted, the previous flip has ended.
  [[nodiscard]] Outcome commit_within(AtomicRequest& wanted, std::uint32_t flags, const CrtcObject& on, Deadline taken,
                                      Deadline done) noexcept;
  /// Waits for the pending flips, and commits nothing new meanwhile.
  [[nodiscard]] Result<void> finish_flips(Deadline deadline) noexcept;
  /// After EBUSY without a pending flip of ours: sets the time of the next try or, after the last, returns the error.
  [[nodiscard]] Result<void> blocked() noexcept;
  /// Restores the previous state. -ETIMEDOUT: the display did not accept it in time; the screen is left as it is.
  [[nodiscard]] Outcome restore() noexcept;
  /// Detaches the writeback connector. Results as restore().
  [[nodiscard]] Outcome detach_writeback(Deadline taken, Deadline done) noexcept;
  /// Reads the state to restore later, once before the first commit, and reserves memory for the request.
  [[nodiscard]] Result<void> prepare();
  /// Sets connector, CRTC and mode in a request, and turns off everything else on the CRTC.
  void set_mode(AtomicRequest& to, std::uint32_t blob) const;
};

struct Plane::Impl {
  /// Who waits for a staged frame's fence. Decided at the first attempt to commit the frame.
  enum class FenceWait : std::uint8_t { unknown, nobody, kernel, here };
  struct Held {
    Frame frame;
    std::uint32_t framebuffer = 0;
    FenceWait wait = FenceWait::unknown;
    Fence merged{};  // its ready() and the buffer's implicit fences in one; null if there is only ready()
  };
  struct Submitted {
    std::uint64_t commit = 0;
    Presentation report{};
  };

  Output::Impl& output;
  PlaneOptions options;
  std::string name;
  std::optional<Place> place;
  Rect configured_position{};  // of whole frames
  Rect part{};                 // the visible part of the frames: shown, or refused by the driver
  bool has_moved = false;      // the place differs from the one last committed
  StreamConfig config;
  std::uint64_t configuration = 0;
  std::uint64_t dropped = 0;  // frames that were released uncommitted
  bool is_on = false;         // its place is set in the kernel
  Held shown;
  Held under_way;
  Held staged;     // committed next
  Held following;  // arrived after it, while the output is in step
  Ring<Submitted, 128> submitted;
  Ring<Presentation, 256> presented;
  bool has_changed = false;
  bool kernel_takes_fences = true;  // until it refuses one

  Impl(Output::Impl& o, const PlaneOptions& p) : output(o), options(p), name(o.name) {}
  [[nodiscard]] Device::Impl& device() const noexcept { return output.device; }
  [[nodiscard]] DrmFile& file() const noexcept { return output.device.file; }

  [[nodiscard]] const Fence& staged_fence() const noexcept {
    return staged.merged.is_null() ? staged.frame.ready() : staged.merged;
  }

  // place.cpp
  /// Finds plane, mode and position for a stream, asking the driver (TEST_ONLY) whenever possible.
  [[nodiscard]] Result<Place> find_place(const StreamConfig& stream);
  /// TEST_ONLY of one framebuffer at a place. Returns 0 or -errno.
  [[nodiscard]] int try_place(const Place& at, std::uint32_t framebuffer, std::uint32_t mode_blob) const;
  /// If the visible part of the staged frame has changed, shows that part, or the whole frame if the driver cannot.
  /// Asks the driver only after such a change.
  void follow_visible_part() {
    if (staged.frame.info().visible == part || options.source) [[likely]]
      return;
    follow_part(staged.frame.info().visible);
  }
  void follow_part(const Rect& visible);
  /// Sets every property that determines where and how the frame is shown.
  void set_place(AtomicRequest& to, const Place& at, std::uint32_t framebuffer) const;
  static void turn_off(AtomicRequest& to, const PlaneObject& plane);
  /// The planes that could be used, the present one first.
  [[nodiscard]] std::vector<const PlaneObject*> candidates() const;

  // plane_fences.cpp
  /// Whether the staged frame may be committed now: no fence is pending, or the kernel waits for it. A frame whose
  /// fence has failed is released.
  [[nodiscard]] bool is_committable() noexcept {
    if (staged.frame && staged.merged.is_null() && staged.frame.ready().is_null() &&
        !staged.frame.info().has_implicit_fences) {
      staged.wait = FenceWait::nobody;
      return true;
    }
    return look_at_fences();
  }
  [[nodiscard]] bool look_at_fences() noexcept;
  /// The descriptor that the staged frame waits for in this process: a fence's or, on kernels before 6.0, a dma-buf's;
  /// -1 = none.
  [[nodiscard]] int waiting_fence() const noexcept;
  /// Whether is_committable() has found it committable.
  [[nodiscard]] bool is_going() const noexcept {
    return staged.frame && (staged.wait == FenceWait::nobody || staged.wait == FenceWait::kernel);
  }
  /// Sets IN_FENCE_FD for the staged frame if the kernel is to wait.
  void set_fence(AtomicRequest& to) const;

  // plane.cpp
  /// True if a newer frame does not displace the staged one, but is kept to follow it.
  [[nodiscard]] bool keeps_staged() const noexcept;
  /// Takes a frame and returns the one it displaced.
  [[nodiscard]] Frame stage(Held newest) noexcept;
  [[nodiscard]] Result<void> stop() noexcept;
  void let_go() noexcept;
  /// Releases the frames that were not committed, and counts them.
  void drop_staged() noexcept;
  /// Hands the frames that the display may still read to the device, before the plane is destroyed.
  void leave_on_screen() noexcept;
  /// The error of stop() if the display has not finished.
  [[nodiscard]] Error not_finished() const noexcept;
  /// Finds out, by really showing one of the display's own buffers, whether the driver moves such memory when it is
  /// shown.
  [[nodiscard]] Result<void> find_whether_memory_moves(const Buffer& buffer, std::uint32_t framebuffer);
  /// True if a frame of this plane is on the screen or committed, even one of an earlier configuration.
  [[nodiscard]] bool is_lit() const noexcept { return is_on || under_way.frame || shown.frame; }
};

/// Access to the internals for the files of this backend.
struct Inside {
  static Plane::Impl& of(Plane& plane) noexcept { return *plane.impl_; }
  static const Plane::Impl& of(const Plane& plane) noexcept { return *plane.impl_; }
  static Output::Impl& of(Output& output) noexcept { return *output.impl_; }
};

}  // namespace dmaflow::kms
