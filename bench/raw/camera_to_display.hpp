// A camera on a display in raw system calls, as an expert would write it in C. The camera writes into the display's
// dumb buffers. One loop waits only for the camera and commits without waiting; a commit that succeeds proves that the
// previous one is on the screen. Flip events are read in batches. Descriptors have no owners, there is no negotiation,
// and every error ends the program. Only loop() is measured.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <drm_fourcc.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

namespace raw {

constexpr int most_buffers = 16;

struct CameraToDisplay {
  int video = -1;
  int card = -1;
  int buffers = 0;
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::uint32_t crtc = 0;
  std::uint32_t connector = 0;
  std::uint32_t plane = 0;
  std::uint32_t fb_property = 0;
  std::uint32_t mode_blob = 0;
  std::array<std::uint32_t, most_buffers> handle{};
  std::array<std::uint32_t, most_buffers> framebuffer{};
  std::array<int, most_buffers> prime{};
  // The loop's state: buffer numbers, -1 for none.
  int on_screen = -1;
  int on_its_way = -1;
  int staged = -1;
  std::uint64_t captured = 0;
  std::uint64_t committed = 0;
  std::uint32_t events = 0;  // requested and not yet read
};

[[noreturn]] inline void fail(const char* what) {
  std::perror(what);
  std::_Exit(2);
}

inline void check(int result, const char* what) {
  if (result < 0) fail(what);
}

// --- Set-up, not measured --------------------------------------------------------------------------------------------

inline std::uint32_t property(int card, std::uint32_t object, std::uint32_t type, const char* name) {
  drmModeObjectProperties* all = drmModeObjectGetProperties(card, object, type);
  std::uint32_t found = 0;
  for (std::uint32_t i = 0; all != nullptr && i < all->count_props; ++i) {
    drmModePropertyRes* one = drmModeGetProperty(card, all->props[i]);
    if (one != nullptr && std::strcmp(one->name, name) == 0) found = one->prop_id;
    drmModeFreeProperty(one);
  }
  drmModeFreeObjectProperties(all);
  if (found == 0) fail(name);
  return found;
}

inline void light_up(CameraToDisplay& my) {
  drmModeRes* resources = drmModeGetResources(my.card);
  drmModeConnector* monitor = drmModeGetConnector(my.card, resources->connectors[0]);
  const drmModeModeInfo* mode =
      std::find_if(monitor->modes, monitor->modes + monitor->count_modes,
                   [&](const auto& one) { return one.hdisplay == my.width && one.vdisplay == my.height; });
  if (mode == monitor->modes + monitor->count_modes) fail("the monitor has no such mode");
  my.crtc = resources->crtcs[0];
  my.connector = monitor->connector_id;
  drmModePlaneRes* planes = drmModeGetPlaneResources(my.card);
  my.plane = planes->planes[0];
  my.fb_property = property(my.card, my.plane, DRM_MODE_OBJECT_PLANE, "FB_ID");
  check(drmModeCreatePropertyBlob(my.card, mode, sizeof *mode, &my.mode_blob), "mode");
  drmModeAtomicReq* request = drmModeAtomicAlloc();
  const auto set = [&](std::uint32_t object, std::uint32_t type, const char* name, std::uint64_t value) {
    drmModeAtomicAddProperty(request, object, property(my.card, object, type, name), value);
  };
  set(my.connector, DRM_MODE_OBJECT_CONNECTOR, "CRTC_ID", my.crtc);
  set(my.crtc, DRM_MODE_OBJECT_CRTC, "MODE_ID", my.mode_blob);
  set(my.crtc, DRM_MODE_OBJECT_CRTC, "ACTIVE", 1);
  set(my.plane, DRM_MODE_OBJECT_PLANE, "FB_ID", my.framebuffer[0]);
  set(my.plane, DRM_MODE_OBJECT_PLANE, "CRTC_ID", my.crtc);
  set(my.plane, DRM_MODE_OBJECT_PLANE, "SRC_W", std::uint64_t{my.width} << 16U);
  set(my.plane, DRM_MODE_OBJECT_PLANE, "SRC_H", std::uint64_t{my.height} << 16U);
  set(my.plane, DRM_MODE_OBJECT_PLANE, "CRTC_W", my.width);
  set(my.plane, DRM_MODE_OBJECT_PLANE, "CRTC_H", my.height);
  check(drmModeAtomicCommit(my.card, request, DRM_MODE_ATOMIC_ALLOW_MODESET, nullptr), "modeset");
  drmModeAtomicFree(request);
  drmModeFreePlaneResources(planes);
  drmModeFreeConnector(monitor);
  drmModeFreeResources(resources);
}

inline void queue(const CameraToDisplay& my, int buffer) {
  v4l2_buffer one{};
  one.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  one.memory = V4L2_MEMORY_DMABUF;
  one.index = static_cast<std::uint32_t>(buffer);
  one.m.fd = my.prime[static_cast<std::size_t>(buffer)];
  check(::ioctl(my.video, VIDIOC_QBUF, &one), "VIDIOC_QBUF");
}

/// Both devices, with the camera's format and rate set.
inline CameraToDisplay open_devices(const char* video, const char* card, std::uint32_t width, std::uint32_t height,
                                    std::uint32_t frames_per_second) {
  CameraToDisplay my;
  my.width = width;
  my.height = height;
  my.video = ::open(video, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  my.card = ::open(card, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (my.video < 0 || my.card < 0) fail("open");
  check(drmSetClientCap(my.card, DRM_CLIENT_CAP_ATOMIC, 1), "atomic");
  v4l2_format format{};
  format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  format.fmt.pix.width = width;
  format.fmt.pix.height = height;
  format.fmt.pix.pixelformat = V4L2_PIX_FMT_XBGR32;  // bytes B, G, R, X: DRM's XRGB8888
  check(::ioctl(my.video, VIDIOC_S_FMT, &format), "VIDIOC_S_FMT");
  v4l2_streamparm rate{};
  rate.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  rate.parm.capture.timeperframe = {.numerator = 1, .denominator = frames_per_second};
  check(::ioctl(my.video, VIDIOC_S_PARM, &rate), "VIDIOC_S_PARM");
  return my;
}

/// Makes one of the display's own buffers with a framebuffer. Returns its pitch in bytes; @p size is set to its size.
inline std::uint32_t make_buffer(CameraToDisplay& my, std::size_t i, std::uint64_t& size) {
  std::uint32_t pitch = 0;
  check(drmModeCreateDumbBuffer(my.card, my.width, my.height, 32, 0, &my.handle[i], &pitch, &size), "dumb buffer");
  const std::uint32_t handles[4] = {my.handle[i]};
  const std::uint32_t pitches[4] = {pitch};
  const std::uint32_t offsets[4] = {};
  check(drmModeAddFB2(my.card, my.width, my.height, DRM_FORMAT_XRGB8888, handles, pitches, offsets, &my.framebuffer[i],
                      0),
        "framebuffer");
  return pitch;
}

inline CameraToDisplay open(const char* video, const char* card, std::uint32_t width, std::uint32_t height, int buffers,
                            std::uint32_t frames_per_second = 60) {
  CameraToDisplay my = open_devices(video, card, width, height, frames_per_second);
  my.buffers = buffers;
  v4l2_requestbuffers wanted{};
  wanted.count = static_cast<std::uint32_t>(buffers);
  wanted.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  wanted.memory = V4L2_MEMORY_DMABUF;
  check(::ioctl(my.video, VIDIOC_REQBUFS, &wanted), "VIDIOC_REQBUFS");
  for (std::size_t i = 0; i < static_cast<std::size_t>(buffers); ++i) {
    std::uint64_t size = 0;
    make_buffer(my, i, size);
    check(drmPrimeHandleToFD(my.card, my.handle[i], DRM_CLOEXEC | DRM_RDWR, &my.prime[i]), "prime");
  }
  light_up(my);
  my.on_screen = 0;
  for (int i = 1; i < buffers; ++i) queue(my, i);
  int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  check(::ioctl(my.video, VIDIOC_STREAMON, &type), "VIDIOC_STREAMON");
  return my;
}

inline void close(CameraToDisplay& my) {
  int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  check(::ioctl(my.video, VIDIOC_STREAMOFF, &type), "VIDIOC_STREAMOFF");
  for (std::size_t i = 0; i < static_cast<std::size_t>(my.buffers); ++i) {
    drmModeRmFB(my.card, my.framebuffer[i]);
    ::close(my.prime[i]);
  }
  drmModeDestroyPropertyBlob(my.card, my.mode_blob);
  ::close(my.video);
  ::close(my.card);
}

// --- The loop --------------------------------------------------------------------------------------------------------

inline void read_events(CameraToDisplay& my) {
  std::array<char, 4096> events;  // NOLINT(cppcoreguidelines-pro-type-member-init): read() fills it
  const ssize_t size = ::read(my.card, events.data(), events.size());
  if (size > 0) my.events -= static_cast<std::uint32_t>(static_cast<std::size_t>(size) / sizeof(drm_event_vblank));
}

/// Commits the staged buffer. False if the display is still busy with the previous commit.
inline bool flip(CameraToDisplay& my) {
  std::uint32_t object = my.plane;
  std::uint32_t count = 1;
  std::uint32_t id = my.fb_property;
  std::uint64_t value = my.framebuffer[static_cast<std::size_t>(my.staged)];
  drm_mode_atomic request{};
  request.flags = DRM_MODE_ATOMIC_NONBLOCK | DRM_MODE_PAGE_FLIP_EVENT;
  request.count_objs = 1;
  request.objs_ptr = reinterpret_cast<std::uintptr_t>(&object);
  request.count_props_ptr = reinterpret_cast<std::uintptr_t>(&count);
  request.props_ptr = reinterpret_cast<std::uintptr_t>(&id);
  request.prop_values_ptr = reinterpret_cast<std::uintptr_t>(&value);
  if (::ioctl(my.card, DRM_IOCTL_MODE_ATOMIC, &request) < 0) {
    if (errno == EBUSY) return false;
    fail("DRM_IOCTL_MODE_ATOMIC");
  }
  ++my.committed;
  return true;
}

/// Shows the staged buffer. False if the display is busy.
inline bool commit(CameraToDisplay& my) {
  if (!flip(my)) return false;
  // The previous buffer is on the screen now, so the one before it is free.
  if (my.on_its_way >= 0) {
    queue(my, my.on_screen);
    my.on_screen = my.on_its_way;
  }
  my.on_its_way = my.staged;
  my.staged = -1;
  if (++my.events == 32) read_events(my);
  return true;
}

/// Runs until @p frames frames were captured in total. Not inlined, so that callgrind finds it.
[[gnu::noinline]] inline void loop(CameraToDisplay& my, std::uint64_t frames) {
  while (my.captured < frames) {
    pollfd fds[2] = {{my.video, POLLIN, 0}, {my.card, POLLIN, 0}};
    const bool waits_for_flip = my.staged >= 0;
    if (::poll(fds, waits_for_flip ? 2 : 1, 5000) <= 0) fail("poll");
    if (waits_for_flip && fds[1].revents != 0) {
      read_events(my);
      if (my.staged >= 0) commit(my);
    }
    if (fds[0].revents == 0) continue;
    v4l2_buffer one{};
    one.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    one.memory = V4L2_MEMORY_DMABUF;
    check(::ioctl(my.video, VIDIOC_DQBUF, &one), "VIDIOC_DQBUF");
    ++my.captured;
    if (my.staged >= 0) queue(my, my.staged);  // the newer one replaces it
    my.staged = static_cast<int>(one.index);
    commit(my);
  }
}

}  // namespace raw
