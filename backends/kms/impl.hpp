// The insides of Device, Output and Plane. One thread uses them all.
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

/// Flip events outstanding before they are read: 32 of the 128 that fit the kernel's 4096 bytes per file.
inline constexpr std::uint32_t event_batch = 32;

/// How long stop() waits for the display to finish, and again for it to take what was there before.
inline constexpr std::chrono::seconds stop_time{1};

/// The driver's name, or an empty one where this is no DRM file.
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

/// How a commit went that was waited for.
struct Outcome {
  int result = 0;    // -errno; -ETIMEDOUT: the CRTC was busy until the deadline, and nothing was changed
  Fence unfinished;  // taken, but at the deadline not on the screen yet; signals once it is
};

/// A frame that a display may still read, of an output or a plane that is gone.
struct LeftOnScreen {
  static constexpr std::uint64_t until_restored = ~std::uint64_t{0};
  std::uint16_t output = 0;
  std::uint64_t commit = 0;  // once that is on the screen, the frame is read no more
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
  Deadline::Clock::time_point look_again{};  // while paused: whether it is master again
  std::uint32_t outstanding = 0;             // flip events asked for and not yet read
  std::uint64_t configurations = 0;          // counts set_input() calls of all planes
  std::uint16_t next_output = 1;
  std::vector<LeftOnScreen> left_on_screen;  // room is reserved when a plane is made
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
  /// SET_MASTER. Errors: EACCES, EBUSY with what would help.
  [[nodiscard]] Result<void> take_master() const noexcept;
  /// Reads the events that are there. Never blocks.
  [[nodiscard]] Result<void> read_events() noexcept;
  [[nodiscard]] Result<void> dispatch(short revents) noexcept;
  void on_flip(std::uint64_t user_data, std::chrono::nanoseconds when) noexcept;
  /// Holds a frame until that commit is on the screen, or until the device ends.
  void leave_on_screen(std::uint16_t output, std::uint64_t commit, Frame frame) noexcept;
  /// Lets go of those that an output's commit replaced.
  void take_off_screen(std::uint16_t output, std::uint64_t commit) noexcept;
  /// The alignment of a row of 32-bit pixels in the driver's own memory; 0 where it has none. Tried once.
  [[nodiscard]] std::uint32_t find_pitch_alignment() noexcept;
  /// Sets everything again, being master.
  [[nodiscard]] Result<void> resume() noexcept;
  /// Commits the staged frames of outputs that wait no more.
  [[nodiscard]] Result<void> commit_waiting() noexcept;
  /// Looks at connectors anew after a hotplug report.
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
  std::vector<std::uint32_t> used_planes;  // frames were shown on
  AtomicRequest request;
  bool wants_out_fences = false;
  std::int32_t out_fence_fd = -1;        // written by the kernel
  Fence out_fence;                       // of the newest commit
  ConnectorObject* writeback = nullptr;  // left on the CRTC by capture()
  bool is_lit = false;                   // our mode and connector are set
  bool has_touched = false;              // something was committed, so there is something to restore
  bool must_relight = false;             // all is to be set again, though nothing new is staged
  bool in_flight = false;                // the last commit is not known to be on the screen
  bool is_parked = false;                // the next commit was, or would be, refused: the flip event lets it go on
  bool is_stuck = false;    // a stop() gave up on it; until the flip ends, the next one does not wait again
  bool is_blocked = false;  // refused with EBUSY, but no flip of ours is under way: tried again by the clock
  Deadline::Clock::time_point ask_again{};  // blocked: when to try
  Deadline::Clock::time_point give_up{};    // blocked: no longer than until then
  bool is_slow =
      false;  // the event is worth waking for: frames come rarely or have a target, or the screen was just lit
  bool is_in_step = false;  // flips end just after frames come: frames go on their way when the next one comes
  Deadline::Clock::time_point commit_by{};  // in step: no longer than until then
  std::uint32_t refusals = 0;               // frames in a row that found the display not done
  std::uint64_t refused_after = 0;          // commits there had been at the last of them
  std::uint64_t commits = 0;
  std::uint64_t lighting_commit = 0;  // the last that set the mode
  std::uint32_t unread = 0;           // flip events of this output asked for and not yet read
  std::chrono::nanoseconds last_captured{0};

  Impl(Device::Impl& d, std::string n) : device(d), name(std::move(n)) {}
  [[nodiscard]] Error error(int negative_errno, const char* operation) const noexcept {
    return Error::os(-negative_errno, operation, name);
  }

  // output.cpp
  [[nodiscard]] bool has_staged() const noexcept;
  [[nodiscard]] bool has_following() const noexcept;
  /// Something staged that no fence holds back.
  [[nodiscard]] bool has_committable() noexcept;
  /// After the driver refused a commit with fences: waits for them here. False where there were none.
  [[nodiscard]] bool hold_for_fences() noexcept;
  /// What staged frames wait for in this process; -1 = nothing.
  [[nodiscard]] int waiting_fence() const noexcept;
  [[nodiscard]] bool is_waiting() const noexcept;  // staged frames wait for a flip event
  /// In step, and nothing came yet to send the staged frames on their way.
  [[nodiscard]] bool is_deferring() const noexcept;
  /// When the staged frames are to be committed though no other frame came.
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept;
  /// The display was not done: how to wait for it.
  void refused() noexcept;
  /// Counts the time until the staged frames must go anew.
  void keep_step() noexcept;
  /// Of the mode; of 60 Hz where that is not known.
  [[nodiscard]] std::chrono::nanoseconds refresh_period() const noexcept;
  /// Commits what is staged, or parks it.
  [[nodiscard]] Result<void> commit() noexcept;
  /// Everything: connector, CRTC, mode, each plane with its newest frame.
  [[nodiscard]] int commit_all() noexcept;
  /// Turns off another CRTC that drives our connector, in a commit of its own: one that also asked for our flip would
  /// bring an event of that CRTC too, or be refused where it is off.
  [[nodiscard]] int free_connector() noexcept;
  [[nodiscard]] int commit_staged() noexcept;
  [[nodiscard]] int submit(std::uint32_t flags) noexcept;
  /// Of the next commit's flip event: whose it is, and which.
  [[nodiscard]] std::uint64_t next_user_data() const noexcept { return std::uint64_t{number} << 48U | (commits + 1); }
  /// One framebuffer on one plane, waiting until it is on the screen, without an event.
  [[nodiscard]] Outcome commit_now(Plane::Impl& plane, std::uint32_t framebuffer) noexcept;
  void note_used(std::uint32_t plane);
  /// What a failed commit means: parked, paused, or an error.
  [[nodiscard]] Result<void> settle(int result) noexcept;
  /// After mastership came back: everything is set again, whatever another master left.
  [[nodiscard]] Result<void> relight() noexcept;
  void committed() noexcept;
  /// The last commit is on the screen: what it replaced is let go.
  void completed() noexcept;
  void on_flip(std::uint64_t commit, std::chrono::nanoseconds when) noexcept;
  [[nodiscard]] Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) noexcept;

  // bounded.cpp
  /// A nonblocking commit, repeated until @p taken while the CRTC is busy; then waits until @p done for it to be on the
  /// screen of @p on. Appends to @p wanted. Proves the flip before it ended, if it is taken.
  [[nodiscard]] Outcome commit_within(AtomicRequest& wanted, std::uint32_t flags, const CrtcObject& on, Deadline taken,
                                      Deadline done) noexcept;
  /// Waits for the flips under way, and commits nothing new meanwhile.
  [[nodiscard]] Result<void> finish_flips(Deadline deadline) noexcept;
  /// After EBUSY without a flip of ours under way: sets the time of the next try or, after the last, returns the error.
  [[nodiscard]] Result<void> blocked() noexcept;
  /// Puts back what was there before. -ETIMEDOUT: the display did not take it in time; the screen is as it was.
  [[nodiscard]] Outcome restore() noexcept;
  /// Lets go of the writeback connector. As restore().
  [[nodiscard]] Outcome detach_writeback(Deadline taken, Deadline done) noexcept;
  /// Reads what is to be put back later, once before the first commit, and reserves the request.
  [[nodiscard]] Result<void> prepare();
  /// Connector, CRTC and mode of a request; and everything else on the CRTC turned off.
  void set_mode(AtomicRequest& to, std::uint32_t blob) const;
};

struct Plane::Impl {
  /// Who waits for a staged frame's fence. Decided when it is first to be committed.
  enum class FenceWait : std::uint8_t { unknown, nobody, kernel, here };
  struct Held {
    Frame frame;
    std::uint32_t framebuffer = 0;
    FenceWait wait = FenceWait::unknown;
    Fence merged{};  // its ready() and the buffer's implicit fences in one; null where ready() is all there is
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
  Rect part{};                 // of the frames that is shown, or was to be: their visible part
  bool has_moved = false;      // the place is another than the kernel was told last
  StreamConfig config;
  std::uint64_t configuration = 0;
  std::uint64_t dropped = 0;  // frames that were let go uncommitted
  bool is_on = false;         // its place is set in the kernel
  Held shown;
  Held under_way;
  Held staged;     // committed next
  Held following;  // came behind it, while the output is in step
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
  /// Finds plane, mode and position for a stream, by asking the driver (TEST_ONLY) where that can be done.
  [[nodiscard]] Result<Place> find_place(const StreamConfig& stream);
  /// TEST_ONLY of one framebuffer at a place. Returns 0 or -errno.
  [[nodiscard]] int try_place(const Place& at, std::uint32_t framebuffer, std::uint32_t mode_blob) const;
  /// Follows the visible part of the staged frame, where that changed: shows it, or all of the frame where the driver
  /// cannot. Looks before it asks the driver, which is only then.
  void follow_visible_part() {
    if (staged.frame.info().visible == part || options.source) [[likely]]
      return;
    follow_part(staged.frame.info().visible);
  }
  void follow_part(const Rect& visible);
  /// Every property that says where and how.
  void set_place(AtomicRequest& to, const Place& at, std::uint32_t framebuffer) const;
  static void turn_off(AtomicRequest& to, const PlaneObject& plane);
  /// Candidates for a format, this plane's present one first.
  [[nodiscard]] std::vector<const PlaneObject*> candidates() const;

  // plane_fences.cpp
  /// Whether the staged frame may be committed now: it has no fence left, or the kernel waits for it. A frame whose
  /// fence has failed is let go.
  [[nodiscard]] bool is_committable() noexcept {
    if (staged.frame && staged.merged.is_null() && staged.frame.ready().is_null() &&
        !staged.frame.info().has_implicit_fences) {
      staged.wait = FenceWait::nobody;
      return true;
    }
    return look_at_fences();
  }
  [[nodiscard]] bool look_at_fences() noexcept;
  /// What the staged frame waits for in this process: a fence's or, on kernels before 6.0, a dma-buf's descriptor; -1 =
  /// nothing.
  [[nodiscard]] int waiting_fence() const noexcept;
  /// Found committable.
  [[nodiscard]] bool is_going() const noexcept {
    return staged.frame && (staged.wait == FenceWait::nobody || staged.wait == FenceWait::kernel);
  }
  /// IN_FENCE_FD of the staged frame, where the kernel is to wait.
  void set_fence(AtomicRequest& to) const;

  // plane.cpp
  /// A staged frame that is not displaced by a newer one: that one goes behind it.
  [[nodiscard]] bool keeps_staged() const noexcept;
  /// Takes a frame in, and gives back the one it displaced.
  [[nodiscard]] Frame stage(Held newest) noexcept;
  [[nodiscard]] Result<void> stop() noexcept;
  void let_go() noexcept;
  /// Lets go of what was not committed, and counts it.
  void drop_staged() noexcept;
  /// Hands the frames that the display may still read to the device, before the plane is destroyed.
  void leave_on_screen() noexcept;
  /// The error of stop() where the display has not finished.
  [[nodiscard]] Error not_finished() const noexcept;
  /// Finds out, by really showing one of the display's own buffers, whether the driver moves such memory when it is
  /// shown.
  [[nodiscard]] Result<void> find_whether_memory_moves(const Buffer& buffer, std::uint32_t framebuffer);
  /// Something of this plane is on the screen or on its way, be it of an earlier configuration.
  [[nodiscard]] bool is_lit() const noexcept { return is_on || under_way.frame || shown.frame; }
};

/// Access to the insides for the files of this backend.
struct Inside {
  static Plane::Impl& of(Plane& plane) noexcept { return *plane.impl_; }
  static const Plane::Impl& of(const Plane& plane) noexcept { return *plane.impl_; }
  static Output::Impl& of(Output& output) noexcept { return *output.impl_; }
};

}  // namespace dmaflow::kms
