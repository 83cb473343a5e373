// A camera on a display by copying, as an expert would write it in C. The camera's own buffers are mapped. Each frame
// is copied into one of three of the display's buffers, and its buffer is queued to the camera again at once. Waiting,
// committing and reading flip events work as in the loop without a copy (camera_to_display.hpp).
#pragma once

#include "camera_to_display.hpp"

#include <sys/mman.h>

namespace raw {

struct CopyToDisplay {
  CameraToDisplay base;  // its buffers are the display's own
  std::array<const unsigned char*, most_buffers> camera{};
  std::array<unsigned char*, 3> screen{};
  std::uint32_t camera_pitch = 0;  // bytes
  std::uint32_t screen_pitch = 0;
};

// --- Set-up, not measured --------------------------------------------------------------------------------------------

inline void give_back(const CopyToDisplay& my, std::uint32_t buffer) {
  v4l2_buffer one{};
  one.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  one.memory = V4L2_MEMORY_MMAP;
  one.index = buffer;
  check(::ioctl(my.base.video, VIDIOC_QBUF, &one), "VIDIOC_QBUF");
}

inline void map_camera(CopyToDisplay& my, int buffers) {
  v4l2_format format{};
  format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  check(::ioctl(my.base.video, VIDIOC_G_FMT, &format), "VIDIOC_G_FMT");
  my.camera_pitch = format.fmt.pix.bytesperline;
  v4l2_requestbuffers wanted{};
  wanted.count = static_cast<std::uint32_t>(buffers);
  wanted.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  wanted.memory = V4L2_MEMORY_MMAP;
  check(::ioctl(my.base.video, VIDIOC_REQBUFS, &wanted), "VIDIOC_REQBUFS");
  for (std::uint32_t i = 0; i < wanted.count && i < most_buffers; ++i) {
    v4l2_buffer one{};
    one.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    one.memory = V4L2_MEMORY_MMAP;
    one.index = i;
    check(::ioctl(my.base.video, VIDIOC_QUERYBUF, &one), "VIDIOC_QUERYBUF");
    void* const memory = ::mmap(nullptr, one.length, PROT_READ, MAP_SHARED, my.base.video, one.m.offset);
    if (memory == MAP_FAILED) fail("mmap");
    my.camera[i] = static_cast<const unsigned char*>(memory);
    give_back(my, i);
  }
}

inline void map_screen(CopyToDisplay& my) {
  my.base.buffers = static_cast<int>(my.screen.size());
  for (std::size_t i = 0; i < my.screen.size(); ++i) {
    std::uint64_t size = 0;
    my.screen_pitch = make_buffer(my.base, i, size);
    std::uint64_t offset = 0;
    check(drmModeMapDumbBuffer(my.base.card, my.base.handle[i], &offset), "dumb buffer");
    void* const memory =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, my.base.card, static_cast<off_t>(offset));
    if (memory == MAP_FAILED) fail("mmap");
    my.screen[i] = static_cast<unsigned char*>(memory);
  }
}

inline CopyToDisplay open_copying(const char* video, const char* card, std::uint32_t width, std::uint32_t height,
                                  int buffers, std::uint32_t frames_per_second) {
  CopyToDisplay my;
  my.base = open_devices(video, card, width, height, frames_per_second);
  map_camera(my, buffers);
  map_screen(my);
  light_up(my.base);
  my.base.on_screen = 0;
  int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
  check(::ioctl(my.base.video, VIDIOC_STREAMON, &type), "VIDIOC_STREAMON");
  return my;
}

// --- The loop --------------------------------------------------------------------------------------------------------

inline void copy(const CopyToDisplay& my, std::uint32_t from, int to) {
  const unsigned char* source = my.camera[from];
  unsigned char* target = my.screen[static_cast<std::size_t>(to)];
  if (my.camera_pitch == my.screen_pitch) {
    std::memcpy(target, source, std::size_t{my.camera_pitch} * my.base.height);
    return;
  }
  for (std::uint32_t row = 0; row < my.base.height; ++row) {
    std::memcpy(target, source, std::size_t{my.base.width} * 4);
    source += my.camera_pitch;
    target += my.screen_pitch;
  }
}

/// Shows the staged buffer, unless the display is busy.
inline void show(CopyToDisplay& my) {
  CameraToDisplay& base = my.base;
  if (!flip(base)) return;
  if (base.on_its_way >= 0) base.on_screen = base.on_its_way;
  base.on_its_way = base.staged;
  base.staged = -1;
  if (++base.events == 32) read_events(base);
}

/// The display's buffer that is neither on the screen nor in a pending flip.
inline int free_one(const CameraToDisplay& base) {
  int buffer = 0;
  while (buffer == base.on_screen || buffer == base.on_its_way) ++buffer;
  return buffer;
}

/// Runs until @p frames frames were captured in total.
inline void loop(CopyToDisplay& my, std::uint64_t frames) {
  CameraToDisplay& base = my.base;
  while (base.captured < frames) {
    pollfd fds[2] = {{base.video, POLLIN, 0}, {base.card, POLLIN, 0}};
    const bool waits_for_flip = base.staged >= 0;
    if (::poll(fds, waits_for_flip ? 2 : 1, 5000) <= 0) fail("poll");
    if (waits_for_flip && fds[1].revents != 0) {
      read_events(base);
      show(my);
    }
    if (fds[0].revents == 0) continue;
    v4l2_buffer one{};
    one.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    one.memory = V4L2_MEMORY_MMAP;
    check(::ioctl(base.video, VIDIOC_DQBUF, &one), "VIDIOC_DQBUF");
    ++base.captured;
    if (base.staged < 0) base.staged = free_one(base);  // else the newer one replaces it
    copy(my, one.index, base.staged);
    give_back(my, one.index);
    show(my);
  }
}

}  // namespace raw
