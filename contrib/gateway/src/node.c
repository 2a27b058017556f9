/*-------------------------------------------------------------------------
 * node.c
 *	  ServerFeatures and Gossip: a cluster of one node, its leader.
 *-------------------------------------------------------------------------
 */
#include "node.h"

#include <grpc/support/alloc.h>
#include <time.h>

#include "node.pb-c.h"
#include "settings.h"
#include "uuid.h"

/* What the gateway can do is what its table of calls has. */
static void
features_message(Call *call, const uint8_t *data, size_t len)
{
	Gw__Features features = GW__FEATURES__INIT;
	Gw__Features__Method *method;

	(void) data;
	(void) len;
	features.version = (char *) PROTOCOL_VERSION;
	for (const Method *const *each = methods; *each; each++)
	{
		char	   *words = (*each)->features ? xstrdup((*each)->features) : NULL;

		features.methods = xrealloc(features.methods, (features.n_methods + 1) * sizeof(method));
		method = features.methods[features.n_methods++] = xmalloc(sizeof(*method));
		gw__features__method__init(method);
		method->service = xstrdup((*each)->service);
		method->method = xstrdup((*each)->name);
		/* names of methods are lower case in this answer */
		for (char *p = method->method; *p; p++)
			if (*p >= 'A' && *p <= 'Z')
				*p += 'a' - 'A';
		for (char *rest = words, *word; rest && (word = strsep(&rest, " ")) != NULL;)
		{
			method->features = xrealloc(method->features, (method->n_features + 1) * sizeof(char *));
			method->features[method->n_features++] = xstrdup(word);
		}
		free(words);
	}
	call_send_message(call, &features.base);
	call_finish(call, GRPC_STATUS_OK, NULL);
	for (size_t i = 0; i < features.n_methods; i++)
	{
		method = features.methods[i];
		for (size_t k = 0; k < method->n_features; k++)
			free(method->features[k]);
		free(method->features);
		free(method->service);
		free(method->method);
		free(method);
	}
	free(features.methods);
}

static void
gossip_message(Call *call, const uint8_t *data, size_t len)
{
	static uint8_t instance[16];
	static char instance_text[UUID_TEXT];
	Gw__Cluster cluster = GW__CLUSTER__INIT;
	Gw__Cluster__Member member = GW__CLUSTER__MEMBER__INIT,
			   *members = &member;
	Gw__Cluster__Address address = GW__CLUSTER__ADDRESS__INIT;
	Gw__Uuid	uuid = GW__UUID__INIT;
	char	   *where = xstrdup(settings.advertise ? settings.advertise : settings.listen);
	char	   *port;

	(void) data;
	(void) len;
	if (instance_text[0] == '\0')
	{
		uuid_random(instance);
		uuid_format(instance, instance_text);
	}
	where[strcspn(where, ",")] = '\0';
	port = strrchr(where, ':');
	if (port)
		*port++ = '\0';
	address.host = where[0] == '[' ? where + 1 : where;
	address.host[strcspn(address.host, "]")] = '\0';
	address.port = port ? atoi(port) : 2113;
	uuid.form_case = GW__UUID__FORM_TEXT;
	uuid.text = instance_text;
	member.instance = &uuid;
	member.time = (int64_t) time(NULL) * 10000000;
	member.state = 8;			/* leader */
	member.alive = true;
	member.address = &address;
	cluster.n_members = 1;
	cluster.members = &members;
	call_send_message(call, &cluster.base);
	call_finish(call, GRPC_STATUS_OK, NULL);
	free(where);
}

const Method server_features_method = {
	.service = "event_store.client.server_features.ServerFeatures", .name = "GetSupportedMethods",
	.open = true, .message = features_message
};

const Method gossip_method = {
	.service = "event_store.client.gossip.Gossip", .name = "Read", .open = true, .message = gossip_message
};
