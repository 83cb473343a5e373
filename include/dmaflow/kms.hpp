// KMS: displays. Frames go to the screen by atomic commits, straight from the buffers the camera filled.
//
// In KMS's own words: a Device is one DRM file, because events and memory handles come per file; an Output is one CRTC
// with its connector and mode, because commits are per CRTC; a Plane of an output takes frames, and is the Sink.
//
//     auto card = kms::Device::open("/dev/dri/card0");   // a unique_ptr
//     auto output = (*card)->output();                   // the connected connector; owned by the device
//     auto screen = (*output)->plane();                  // owned by the output
//
// Outputs and planes belong to their device and end with it. One thread uses a device and all that is its; buffers that
// were imported may end in any thread. Drivers without atomic mode setting are refused. A frame is held until its
// successor is on the screen. What was on the screen before the first frame is put back by stop() and by the
// destructors.
//
// Kernel interface: include/uapi/drm/drm.h, drm_mode.h.
#pragma once

#include <dmaflow/device.hpp>
#include <dmaflow/gem.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dmaflow::kms {

class Device;
class Output;
class Plane;
struct Inside;  // the backend's own

/// One way of driving a connector.
struct Mode {
  Size size;
  std::uint32_t refresh_mhz = 0;  ///< thousandths of a hertz
  bool is_preferred = false;
  bool is_interlaced = false;
  /// "1280x720@60.00".
  [[nodiscard]] std::string describe() const;
};

enum class Connection : std::uint8_t { connected, disconnected, unknown };

/// A place where a monitor can be plugged in.
struct Connector {
  std::uint32_t id = 0;
  std::string name;  ///< "HDMI-A-1", as in /sys/class/drm
  Connection connection = Connection::unknown;
  std::vector<Mode> modes;
};

/// A card of this machine.
struct Card {
  std::string path;                   ///< "/dev/dri/card0"
  std::string driver;                 ///< "virtio_gpu"; empty where it cannot be opened
  std::vector<Connector> connectors;  ///< empty for cards without a display
  std::optional<Error> error;         ///< why nothing is known of it
};

/// Every primary node under /dev/dri, in order. Needs no mastership and changes nothing. Blocking: drivers may read the
/// monitors' EDID.
[[nodiscard]] std::vector<Card> list();

struct OutputOptions {
  std::string connector{};        ///< by name; empty = the first that is connected. "Writeback-1" = no monitor at all
  std::optional<Size> mode{};     ///< unset = the frame's size where the monitor has it, else the preferred mode
  std::uint32_t refresh_mhz = 0;  ///< the nearest to it; 0 = the preferred mode's, else the highest
  std::uint32_t crtc_id = 0;      ///< 0 = the one that drives the connector now, else the first free one
};

enum class Rotation : std::uint8_t { none, by_90, by_180, by_270 };  ///< counter-clockwise, as DRM_MODE_ROTATE_*

enum class PlaneKind : std::uint8_t { any, primary, overlay };

/// Where and how a plane shows its frames. What the driver cannot do is refused by set_input(), never approximated.
struct PlaneOptions {
  PlaneKind kind = PlaneKind::any;  ///< any = the primary plane, or an overlay where that is taken or cannot
  std::uint32_t plane_id = 0;       ///< exactly this one; 0 = any that takes the format
  /// The place on the screen. Unset = all of it where the mode has the frame's size; else the middle, unscaled
  /// or, where the frame is larger or the driver cannot do that, scaled to fit.
  std::optional<Rect> position{};
  /// The part of the frame to show. Unset = its visible part (FrameInfo::visible), where the display can show that;
  /// where it cannot (most show no smaller picture than the mode), all of the frame.
  std::optional<Rect> source{};
  Rotation rotation = Rotation::none;
  bool reflect_x = false;
  bool reflect_y = false;
  std::optional<std::uint32_t> zpos{};  ///< higher is nearer to the viewer
  /// False: nothing is shown before the first frame. Then import() does not find out whether the driver moves memory,
  /// and moves() says no unless another plane of the device has.
  bool may_show_to_try = true;
  /// True: the ready() fence of a frame goes to the kernel (IN_FENCE_FD), which shows the frame at the first vertical
  /// blank after it, where else the loop waits for the fence and commits then. Only for fences that certainly signal,
  /// as those of drivers have to: one that never does keeps the display, and a program that is killed meanwhile never
  /// ends (docs/kms.md, "Fences"). Before Linux 6.8 (no DRM_IOCTL_MODE_CLOSEFB) it is ignored.
  bool fences_in_kernel = false;
};

/// The kernel's reports of monitors plugged in and out (uevents). Poll it beside the planes; a plane's take_changed()
/// is then true once after its connector changed.
class Hotplug : public Pollable {
 public:
  ~Hotplug() override;
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Reads the reports and looks at the connectors anew. May allocate.
  [[nodiscard]] Result<void> dispatch(short revents) override;

 private:
  friend class Device;
  struct Impl;
  explicit Hotplug(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Gives the display away when the user switches to another VT, and takes it back afterwards: for programs that run on
/// a VT without a session manager (which does the same for its own). Poll it beside the planes, e.g. Pipeline::watch().
/// Kernel interface: include/uapi/linux/vt.h.
class VtSwitch : public Pollable {
 public:
  /// Takes over the switching of a VT: "/dev/tty1", or, where empty, the controlling terminal. The kernel asks by two
  /// real-time signals, which are blocked in the calling thread: call it before starting others, like
  /// stop_on_signals(). The device outlives it. Errors: ENOTTY (no VT: a terminal window, ssh), EBUSY (another
  /// VtSwitch of this process), EPERM, EACCES (not one's own VT).
  [[nodiscard]] static Result<std::unique_ptr<VtSwitch>> open(Device& device, const std::string& tty = {});
  /// Gives the switching back to the kernel.
  ~VtSwitch() override;
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Pauses or resumes the device as the kernel asked. Errors: those of Device::resume().
  [[nodiscard]] Result<void> dispatch(short revents) override;

 private:
  struct Impl;
  explicit VtSwitch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// One DRM file of a primary node: its memory handles, its events, its mastership.
class Device : public Pollable {
 public:
  /// Opens a primary node and becomes master of it. An empty path: the first card with a connected connector that can
  /// be mastered. Errors: ENOENT, EACCES (permission: names the group), EBUSY (another program is master), ENODEV (no
  /// display behind it: a render node, vgem), ENOTTY (not a DRM device), EOPNOTSUPP (no atomic mode setting). With an
  /// empty path: ENODEV (no card has a monitor), or the code of the first card that has one; the error says of each
  /// card why it was not used, and what to do.
  [[nodiscard]] static Result<std::unique_ptr<Device>> open(const std::string& path = {});
  /// Takes a file somebody else opened, e.g. a dup of one that a session manager handed out. Becomes master where the
  /// file is not, and drops that again in the end. A dup shares memory handles with the original: whoever imports
  /// buffers through the original too tells keep_handle() and forget_handle(). On an error @p fd stays the caller's.
  [[nodiscard]] static Result<std::unique_ptr<Device>> adopt(Fd& fd);
  ~Device() override;

  /// Ends everything made here (framebuffers, modes, mastership taken), before the file's owner destroys it. Afterwards
  /// calls fail with ENODEV.
  void detach() noexcept;

  [[nodiscard]] std::string_view name() const noexcept;    ///< "/dev/dri/card0 (virtio_gpu)"
  [[nodiscard]] std::string_view driver() const noexcept;  ///< "virtio_gpu"
  [[nodiscard]] int fd() const noexcept;
  [[nodiscard]] bool takes_modifiers() const noexcept;  ///< DRM_CAP_ADDFB2_MODIFIERS
  [[nodiscard]] bool imports() const noexcept;          ///< DRM_PRIME_CAP_IMPORT
  /// The connectors as they are now. Blocking: drivers may read the monitors' EDID.
  [[nodiscard]] Result<std::vector<Connector>> connectors();

  /// A CRTC and its connector. Changes nothing yet. The device owns it.
  /// Errors: ENODEV (no such connector, or none connected: lists them), EBUSY (taken by another output), ENOSPC (no
  /// free CRTC for it).
  [[nodiscard]] Result<Output*> output(const OutputOptions& options = {});
  /// Stops an output and destroys it with its planes.
  void remove(Output* output) noexcept;

  /// Dumb buffers: memory this display can always show, zeroed by the kernel. Named "display".
  /// Constraints on strides, offsets and sizes are met or refused; whether the memory is contiguous is known only by
  /// importing it. Nullptr where the driver has none.
  [[nodiscard]] Allocator* allocator() noexcept;

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] int waiting_fence() const noexcept override;
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;

  /// The kernel's reports of monitors plugged in and out. The device owns it. Errors: those of the netlink socket.
  [[nodiscard]] Result<Hotplug*> hotplug();

  /// True once mastership was lost (a switch to another VT): frames are taken and replaced, and nothing is shown. Where
  /// a session manager gives it back, dispatch() sees that within half a second; else resume() takes it back.
  [[nodiscard]] bool paused() const noexcept;
  /// Drops mastership, as before giving the VT away.
  [[nodiscard]] Result<void> pause() noexcept;
  /// Becomes master again and shows the newest frames. Errors: EACCES, EBUSY (still another's).
  [[nodiscard]] Result<void> resume();

  /// The memory handles of this file, for whoever else imports into it: a gbm::Device that adopts a gbm_device on fd().
  [[nodiscard]] std::shared_ptr<GemRegistry> gem() const noexcept;
  /// A handle that the user of an adopted file has for a buffer in this file, so that an import of the same buffer here
  /// does not close it.
  void keep_handle(std::uint32_t handle);
  /// Takes that back: the user has closed it, or will.
  void forget_handle(std::uint32_t handle) noexcept;

  struct Impl;

 private:
  explicit Device(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// One CRTC, its connector and its mode.
class Output {
 public:
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output();

  [[nodiscard]] std::string_view name() const noexcept;  ///< "/dev/dri/card0 (virtio_gpu) Virtual-1"
  [[nodiscard]] std::string_view connector() const noexcept;
  [[nodiscard]] std::uint32_t crtc_id() const noexcept;
  /// Of the connector, as last seen.
  [[nodiscard]] const std::vector<Mode>& modes() const noexcept;
  [[nodiscard]] bool is_connected() const noexcept;
  /// The mode chosen by the first plane's set_input(), or nothing.
  [[nodiscard]] std::optional<Mode> mode() const noexcept;
  [[nodiscard]] bool paused() const noexcept;

  /// A plane of this output. Which one is decided by set_input(). The output owns it.
  [[nodiscard]] Result<Plane*> plane(const PlaneOptions& options = {});
  /// Stops a plane and destroys it.
  void remove(Plane* plane) noexcept;

  /// Whether every commit from now on makes an out fence (OUT_FENCE_PTR): a descriptor each, so only where somebody
  /// wants it. Errors: EOPNOTSUPP (the driver has none).
  [[nodiscard]] Result<void> want_out_fences(bool wanted);
  /// The out fence of the newest commit: it signals once that is on the screen, and what it replaced is read no more.
  /// Null where there was no commit since, or none was wanted.
  [[nodiscard]] Fence take_out_fence() noexcept;

  /// What a display's own readback (a writeback connector) can write; empty where the driver has none for this CRTC.
  [[nodiscard]] std::vector<PixelFormat> capture_formats() const;
  /// Writes what is on the screen, all planes as composed, into @p target, a buffer of the mode's size. It may be read
  /// once the fence has signalled, and must live until then. Imported at the first call for it. Waits for the flip that
  /// is under way, up to a second (ETIMEDOUT); the first call of a stream sets the mode again, which monitors may show.
  /// Errors: EOPNOTSUPP (no writeback connector), EINVAL (nothing on the screen; another size; a format it cannot
  /// write: lists those it can; the driver cannot drive a monitor and memory at once: an output of the writeback
  /// connector itself can), EACCES (not master), and what the driver answers.
  [[nodiscard]] Result<Fence> capture(const Buffer& target);

  /// Commits made since the first, one per screen update however many planes it has.
  [[nodiscard]] std::uint64_t commits() const noexcept;

  struct Impl;

 private:
  friend class Device;
  friend struct Inside;
  explicit Output(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A plane of an output: the sink. All planes of an output that accepted a frame are committed together by the next
/// flush() of any of them.
class Plane final : public Sink {
 public:
  ~Plane() override;

  [[nodiscard]] std::string_view name() const noexcept override;
  /// True once after the connector was plugged in or out (see Device::hotplug()).
  [[nodiscard]] bool take_changed() noexcept override;
  /// True while the device is paused: switched to another VT, or not master.
  [[nodiscard]] bool is_waiting() const noexcept override;

  /// Errors: EINVAL (size, format or modifier the output has no plane or mode for: lists what it has), EBUSY (no plane
  /// is free), EACCES (not master), and what the driver answers where it cannot place, scale or turn the frame (EINVAL,
  /// ERANGE).
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  /// Errors: as check(); EBUSY (frames are on the screen and another plane is needed: stop() first).
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  /// Usage: scanout. The stride alignment is that of the driver's own memory, found by making some. The modifiers are
  /// those of the planes that can be chosen, for the format configured; empty where the driver lists none (IN_FORMATS).
  [[nodiscard]] Needs needs() const override;
  /// Makes a framebuffer and tries it (DRM_MODE_ATOMIC_TEST_ONLY). The first of the display's own buffers, or of
  /// those that a DRM driver exported to it, is really shown, for a moment, to find out whether the driver moves such
  /// memory (MemoryTraits::moves); not so with PlaneOptions::may_show_to_try false. Errors: EINVAL (not
  /// as configured, or refused by the driver), ENODEV (the driver takes no foreign buffers).
  [[nodiscard]] Result<void> import(const Buffer& buffer) override;
  /// Of every buffer, once one was tried by import(): a driver that moves memory imports none but its own.
  [[nodiscard]] bool moves(const Buffer& buffer) const noexcept override;
  /// Four: on the screen, under way to it, waiting to be committed, and one that came behind it. The kernel takes one
  /// nonblocking commit at a time per CRTC, so there are never more.
  [[nodiscard]] std::uint32_t max_held() const noexcept override { return 4; }
  [[nodiscard]] bool returns_in_calls() const noexcept override { return true; }
  [[nodiscard]] Allocator* input_allocator() noexcept override;
  /// Frames accepted and never committed: their fence failed, the commit failed, or stop() came first.
  [[nodiscard]] std::uint64_t dropped() const noexcept override;

  [[nodiscard]] bool ready() const noexcept override;
  /// Errors: EINVAL (a buffer that was not imported), ENODEV (detached).
  [[nodiscard]] Result<Frame> accept(Frame frame) override;
  /// One nonblocking atomic commit. A frame with fences waits here until all have signalled (waiting_fence()), or its
  /// ready() fence goes to the kernel (PlaneOptions::fences_in_kernel). A frame whose fence has failed is let go, with
  /// a warning to the log. While the previous commit is not on the screen yet, or while paused, nothing is done and the
  /// frame waits. Errors: ETIMEDOUT (for 5 s the screen was busy with another program's frame) and what the driver
  /// answered; the frames that were to be shown are let go.
  [[nodiscard]] Result<void> flush() override;
  /// Reports are kept for the last 256 frames; older ones not taken are lost. They arrive in batches, up to 32 frames
  /// late.
  [[nodiscard]] std::size_t take_presented(std::span<Presentation> out) noexcept override;
  /// Half a refresh of the mode.
  [[nodiscard]] std::chrono::nanoseconds lead_time() const noexcept override;
  [[nodiscard]] Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  /// Waits up to a second for the flip under way, and up to another for the display to take what was there before.
  /// Errors: ETIMEDOUT (the display has not finished: the screen is left as it is, and the frames that it may read stay
  /// held. Once the flip has ended, frames can be shown again, and another stop() ends it. Where the plane ends first,
  /// its device holds the frames until then, or until it ends itself.)
  Result<void> stop() noexcept override;

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] int waiting_fence() const noexcept override;
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;

  /// The kernel's plane; 0 before set_input().
  [[nodiscard]] std::uint32_t plane_id() const noexcept;
  /// Where on the screen; all zero before set_input().
  [[nodiscard]] Rect position() const noexcept;
  /// What planes of this kind on this output take.
  [[nodiscard]] std::vector<FormatModifier> formats() const;

  struct Impl;

 private:
  friend class Output;
  friend struct Inside;
  explicit Plane(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::kms
