// KMS: displays. Frames go to the screen by atomic commits, straight from the buffers the camera filled.
//
// In KMS's terms: a Device is one DRM file, because events and memory handles belong to a file; an Output is one CRTC
// with its connector and mode, because commits are per CRTC; a Plane of an output takes frames, and is the Sink.
//
//     auto card = kms::Device::open("/dev/dri/card0");   // a unique_ptr
//     auto output = (*card)->output();                   // the connected connector; owned by the device
//     auto screen = (*output)->plane();                  // owned by the output
//
// Outputs and planes belong to their device and are destroyed with it. One thread uses a device and everything that
// belongs to it; imported buffers may be destroyed in any thread. Drivers without atomic mode setting are refused. A
// frame is held until its successor is on the screen. stop() and the destructors restore what was on the screen before
// the first frame.
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

/// A connector for a monitor.
struct Connector {
  std::uint32_t id = 0;
  std::string name;  ///< "HDMI-A-1", as in /sys/class/drm
  Connection connection = Connection::unknown;
  std::vector<Mode> modes;
};

/// A graphics card of this machine.
struct Card {
  std::string path;                   ///< "/dev/dri/card0"
  std::string driver;                 ///< "virtio_gpu"; empty if it cannot be opened
  std::vector<Connector> connectors;  ///< empty for cards without a display
  std::optional<Error> error;         ///< why nothing is known about it
};

/// Every primary node under /dev/dri, in order. Needs no mastership and changes nothing. Blocking: drivers may read the
/// monitors' EDID.
[[nodiscard]] std::vector<Card> list();

struct OutputOptions {
  std::string connector{};        ///< by name; empty = the first that is connected. "Writeback-1" = no monitor at all
  std::optional<Size> mode{};     ///< unset = the frame's size if the monitor has it, else the preferred mode
  std::uint32_t refresh_mhz = 0;  ///< the nearest to it; 0 = the preferred mode's, else the highest
  std::uint32_t crtc_id = 0;      ///< 0 = the one that drives the connector now, else the first free one
};

enum class Rotation : std::uint8_t { none, by_90, by_180, by_270 };  ///< counter-clockwise, as DRM_MODE_ROTATE_*

enum class PlaneKind : std::uint8_t { any, primary, overlay };

/// Where and how a plane shows its frames. If the driver cannot do it, set_input() refuses it; it is never
/// approximated.
struct PlaneOptions {
  PlaneKind kind = PlaneKind::any;  ///< any = the primary plane, or an overlay if that is taken or unsuitable
  std::uint32_t plane_id = 0;       ///< exactly this one; 0 = any that takes the format
  /// The position on the screen. Unset = the whole screen if the mode has the frame's size; else centred, unscaled or,
  /// if the frame is larger or the driver cannot do that, scaled to fit.
  std::optional<Rect> position{};
  /// The part of the frame to show. Unset = its visible part (FrameInfo::visible) if the display can show that; if it
  /// cannot (most show no picture smaller than the mode), the whole frame.
  std::optional<Rect> source{};
  Rotation rotation = Rotation::none;
  bool reflect_x = false;
  bool reflect_y = false;
  std::optional<std::uint32_t> zpos{};  ///< higher is nearer to the viewer
  /// False: nothing is shown before the first frame. Then import() does not find out whether the driver moves memory,
  /// and moves() returns false unless another plane of the device has found out.
  bool may_show_to_try = true;
  /// True: the ready() fence of a frame goes to the kernel (IN_FENCE_FD), which shows the frame at the first vertical
  /// blank after the fence; otherwise the loop waits for the fence and then commits. Only for fences that certainly
  /// signal, as drivers' fences must: a fence that never signals blocks the display, and a program that is killed
  /// meanwhile never exits (docs/kms.md, "Fences"). Before Linux 6.8 (no DRM_IOCTL_MODE_CLOSEFB) it is ignored.
  bool fences_in_kernel = false;
};

/// The kernel's reports of monitors plugged in and out (uevents). Poll it together with the planes; a plane's
/// take_changed() is then true once after its connector changed.
class Hotplug : public Pollable {
 public:
  ~Hotplug() override;
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Reads the reports and checks the connectors again. May allocate.
  [[nodiscard]] Result<void> dispatch(short revents) override;

 private:
  friend class Device;
  struct Impl;
  explicit Hotplug(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Gives up the display when the user switches to another VT, and takes it back afterwards: for programs that run on a
/// VT without a session manager (which does the same for its own). Poll it together with the planes, e.g. with
/// Pipeline::watch(). Kernel interface: include/uapi/linux/vt.h.
class VtSwitch : public Pollable {
 public:
  /// Takes over the switching of a VT: "/dev/tty1", or, if empty, the controlling terminal. The kernel requests a
  /// switch with two real-time signals, which are blocked in the calling thread: call it before starting other threads,
  /// like stop_on_signals(). The device must outlive it. Errors: ENOTTY (no VT: a terminal window, ssh), EBUSY (another
  /// VtSwitch of this process), EPERM, EACCES (not the program's own VT).
  [[nodiscard]] static Result<std::unique_ptr<VtSwitch>> open(Device& device, const std::string& tty = {});
  /// Returns the switching to the kernel.
  ~VtSwitch() override;
  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  /// Pauses or resumes the device as the kernel requested. Errors: those of Device::resume().
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
  /// empty path: ENODEV (no card has a monitor), or the code of the first card that has one; the error says for each
  /// card why it was not used, and what to do.
  [[nodiscard]] static Result<std::unique_ptr<Device>> open(const std::string& path = {});
  /// Takes a file opened elsewhere, e.g. a dup of one from a session manager. Becomes master if the file is not, and
  /// drops mastership again at the end. A dup shares memory handles with the original: a program that also imports
  /// buffers through the original must call keep_handle() and forget_handle(). On an error the caller keeps @p fd.
  [[nodiscard]] static Result<std::unique_ptr<Device>> adopt(Fd& fd);
  ~Device() override;

  /// Destroys everything made here (framebuffers, modes, and mastership if it was taken), before the file's owner
  /// closes the file. Afterwards calls fail with ENODEV.
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
  /// importing it. Nullptr if the driver has none.
  [[nodiscard]] Allocator* allocator() noexcept;

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] int waiting_fence() const noexcept override;
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;

  /// The kernel's reports of monitors plugged in and out. The device owns it. Errors: those of the netlink socket.
  [[nodiscard]] Result<Hotplug*> hotplug();

  /// True once mastership was lost (a switch to another VT): frames are accepted and replaced, and nothing is shown. If
  /// a session manager returns it, dispatch() notices that within half a second; otherwise resume() takes it back.
  [[nodiscard]] bool paused() const noexcept;
  /// Drops mastership, e.g. before a VT switch.
  [[nodiscard]] Result<void> pause() noexcept;
  /// Becomes master again and shows the newest frames. Errors: EACCES, EBUSY (another program is still master).
  [[nodiscard]] Result<void> resume();

  /// The memory handles of this file, for other users that import into it: a gbm::Device that adopts a gbm_device on
  /// fd().
  [[nodiscard]] std::shared_ptr<GemRegistry> gem() const noexcept;
  /// Marks a handle that the user of an adopted file has for a buffer in this file, so that an import of the same
  /// buffer here does not close it.
  void keep_handle(std::uint32_t handle);
  /// Undoes that: the user has closed it, or will.
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
  /// The modes of the connector, as last seen.
  [[nodiscard]] const std::vector<Mode>& modes() const noexcept;
  [[nodiscard]] bool is_connected() const noexcept;
  /// The mode chosen by the first plane's set_input(), or nothing.
  [[nodiscard]] std::optional<Mode> mode() const noexcept;
  [[nodiscard]] bool paused() const noexcept;

  /// A plane of this output. set_input() decides which one. The output owns it.
  [[nodiscard]] Result<Plane*> plane(const PlaneOptions& options = {});
  /// Stops a plane and destroys it.
  void remove(Plane* plane) noexcept;

  /// Whether every commit from now on creates an out fence (OUT_FENCE_PTR). Each costs a descriptor, so enable it only
  /// if needed. Errors: EOPNOTSUPP (the driver has none).
  [[nodiscard]] Result<void> want_out_fences(bool wanted);
  /// The out fence of the newest commit: it signals once that commit is on the screen and the frame it replaced is no
  /// longer read. Null if there was no commit since, or no out fence was requested.
  [[nodiscard]] Fence take_out_fence() noexcept;

  /// The formats that the display's own readback (a writeback connector) can write; empty if the driver has none for
  /// this CRTC.
  [[nodiscard]] std::vector<PixelFormat> capture_formats() const;
  /// Writes the contents of the screen, with all planes composed, into @p target, a buffer of the mode's size. It may
  /// be read once the fence has signalled, and must exist until then. It is imported at the first call for it. Waits
  /// for the pending flip, up to a second (ETIMEDOUT); the first call of a stream sets the mode again, which monitors
  /// may show. Errors: EOPNOTSUPP (no writeback connector), EINVAL (nothing on the screen; another size; a format it
  /// cannot write: lists those it can; the driver cannot drive a monitor and memory at once: an output of the writeback
  /// connector itself can), EACCES (not master), and what the driver answers.
  [[nodiscard]] Result<Fence> capture(const Buffer& target);

  /// The number of commits since the first, one per screen update no matter how many planes it has.
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
  /// is free), EACCES (not master), and the driver's error if it cannot place, scale or rotate the frame (EINVAL,
  /// ERANGE).
  [[nodiscard]] Result<void> check_input(const StreamConfig& config) override;
  /// Errors: as check(); EBUSY (frames are on the screen and another plane is needed: stop() first).
  [[nodiscard]] Result<void> set_input(const StreamConfig& config) override;
  /// Usage: scanout. The stride alignment is that of the driver's own memory, found by allocating some. The modifiers
  /// are those of the eligible planes, for the configured format; empty if the driver lists none (IN_FORMATS).
  [[nodiscard]] Needs needs() const override;
  /// Makes a framebuffer and tries it (DRM_MODE_ATOMIC_TEST_ONLY). The first of the display's own buffers, or of
  /// those that a DRM driver exported to it, is really shown for a moment to find out whether the driver moves such
  /// memory (MemoryTraits::moves), unless PlaneOptions::may_show_to_try is false. Errors: EINVAL (not
  /// as configured, or refused by the driver), ENODEV (the driver takes no foreign buffers).
  [[nodiscard]] Result<void> import(const Buffer& buffer) override;
  /// Applies to every buffer, once import() has tried one: a driver that moves memory imports only its own.
  [[nodiscard]] bool moves(const Buffer& buffer) const noexcept override;
  /// Four: on the screen, committed but not yet shown, waiting to be committed, and one behind that. The kernel takes
  /// one nonblocking commit at a time per CRTC, so there are never more.
  [[nodiscard]] std::uint32_t max_held() const noexcept override { return 4; }
  [[nodiscard]] bool returns_in_calls() const noexcept override { return true; }
  [[nodiscard]] Allocator* input_allocator() noexcept override;
  /// Frames accepted and never committed: their fence failed, the commit failed, or stop() came first.
  [[nodiscard]] std::uint64_t dropped() const noexcept override;

  [[nodiscard]] bool ready() const noexcept override;
  /// Errors: EINVAL (a buffer that was not imported), ENODEV (detached).
  [[nodiscard]] Result<Frame> accept(Frame frame) override;
  /// One nonblocking atomic commit. A frame with fences waits here until all have signalled (waiting_fence()), or its
  /// ready() fence goes to the kernel (PlaneOptions::fences_in_kernel). A frame whose fence has failed is released,
  /// with a warning to the log. While the previous commit is not on the screen yet, or while paused, nothing is done
  /// and the frame waits. Errors: ETIMEDOUT (for 5 s the screen was busy with another program's frame) and the driver's
  /// error; the frames that were to be shown are released.
  [[nodiscard]] Result<void> flush() override;
  /// Reports are kept for the last 256 frames; older reports that were not taken are lost. They arrive in batches, up
  /// to 32 frames late.
  [[nodiscard]] std::size_t take_presented(std::span<Presentation> out) noexcept override;
  /// Half a refresh period of the mode.
  [[nodiscard]] std::chrono::nanoseconds lead_time() const noexcept override;
  [[nodiscard]] Result<void> drain(Deadline deadline, const Cancel* cancel = nullptr) override;
  /// Waits up to a second for the pending flip, and up to another for the display to restore the previous state.
  /// Errors: ETIMEDOUT (the display has not finished: the screen is left as it is, and the frames that it may read stay
  /// held. Once the flip has ended, frames can be shown again, and another stop() completes the stop. If the plane is
  /// destroyed first, its device holds the frames until then, or until it is destroyed itself.)
  Result<void> stop() noexcept override;

  [[nodiscard]] int poll_fd() const noexcept override;
  [[nodiscard]] short poll_events() const noexcept override;
  [[nodiscard]] int waiting_fence() const noexcept override;
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept override;
  [[nodiscard]] Result<void> dispatch(short revents) override;

  /// The kernel's plane; 0 before set_input().
  [[nodiscard]] std::uint32_t plane_id() const noexcept;
  /// The position on the screen; all zero before set_input().
  [[nodiscard]] Rect position() const noexcept;
  /// The formats that planes of this kind on this output take.
  [[nodiscard]] std::vector<FormatModifier> formats() const;

  struct Impl;

 private:
  friend class Output;
  friend struct Inside;
  explicit Plane(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmaflow::kms
