/* A small NVML for machines without a driver: cards and the processes on them from the file that NVML_FILE names, a line
   "UUID PID BYTES" each, read anew at every question. What it does not know it refuses, as the real one does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_FOUND = 6, TOO_SMALL = 7 };
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } process;

static char uuids[64][96];

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return getenv("NVML_FILE") ? SUCCESS : 9; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == NOT_FOUND ? "Not Found" : "Unknown Error"; }

static FILE *cards(void) { return fopen(getenv("NVML_FILE"), "r"); }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  char name[96];
  unsigned int pid, slot = 0;
  unsigned long long used;
  FILE *file = cards();
  int found = 0;
  while (file && fscanf(file, "%95s %u %llu", name, &pid, &used) == 3)
    if (strcmp(name, uuid) == 0) found = 1;
  if (file) fclose(file);
  if (!found) return NOT_FOUND;
  while (uuids[slot][0] && strcmp(uuids[slot], uuid)) slot++;
  strcpy(uuids[slot], uuid);
  *device = uuids[slot];
  return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, process *infos) {
  char name[96];
  unsigned int pid, seen = 0, room = *count;
  unsigned long long used;
  FILE *file = cards();
  while (file && fscanf(file, "%95s %u %llu", name, &pid, &used) == 3) {
    if (strcmp(name, device) || pid == 0) continue;
    if (seen < room) infos[seen] = (process){pid, used, ~0u, ~0u};
    seen++;
  }
  if (file) fclose(file);
  *count = seen;
  return seen > room ? TOO_SMALL : SUCCESS;
}
